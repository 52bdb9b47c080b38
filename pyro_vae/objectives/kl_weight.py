"""The ELBO with a weight β on its KL."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import positive, positive_int, within
from pyro_vae.objectives.elbo import TraceMeanField_ELBO
from pyro_vae.objectives.objective import Traces
from pyro_vae.programs.trace import Program


class ScaleLatents(Messenger):
    """`poutine.scale` for latent sites only, by any factor from 0 on.

    Around both model and guide it weights the KL of any program.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = self.scale * msg["scale"]


class BetaVAE(TraceMeanField_ELBO):
    """E_q[log p(x | z)] − β KL(q(z | x) ‖ p(z)): a bound on log p(x) for β ≥ 1, an autoencoder's loss for β = 0.

    Higgins et al. (2017), β-VAE, https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.

    Args:
        beta: β.
        num_particles: draws of z per datapoint.

    Raises:
        BadInput: if beta is negative or not finite.

    Example:
        >>> bound = BetaVAE(beta=4.0).bound(vae.model, vae.guide, x)
        >>> bool(-bound.loss < bound.elbo)  # the ELBO has the weight 1
        True
    """

    name: ClassVar[str] = "beta_vae"

    def __init__(self, beta: float = 4.0, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.kl_weight = within("beta", beta, low=0)
        # a compiled graph reads the current value of a tensor
        self.beta = torch.tensor(self.kl_weight, dtype=torch.float64)

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[Traces]:
        self.beta = self.beta.to(args[0].device)
        scale = ScaleLatents(self.beta)
        return super()._get_traces(scale(model), scale(guide), args, kwargs)


class KLAnnealing(BetaVAE):
    """β rises from `start` to 1 and stays there, so that the decoder learns to use z before the KL has full weight.

    Bowman et al. (2016), Generating sentences from a continuous space, https://arxiv.org/abs/1511.06349, §3.1; in
    cycles Fu et al. (2019), Cyclical annealing schedule, https://arxiv.org/abs/1903.10145.

    Args:
        start: β at the start of each cycle.
        num_epochs: length of all cycles together.
        num_cycles: how often β rises.
        rise: fraction of a cycle in which β rises, linearly; it is 1 for the rest.
        num_particles: draws of z per datapoint.

    Raises:
        BadInput: if an option is out of its range.

    Example:
        >>> objective = KLAnnealing(num_epochs=10)
        >>> objective.at_step(0, 2.5)
        >>> objective.beta.item()
        0.25
    """

    name: ClassVar[str] = "kl_annealing"

    def __init__(
        self,
        start: float = 0.0,
        num_epochs: float = 10,
        num_cycles: int = 1,
        rise: float = 1.0,
        num_particles: int = 1,
    ) -> None:
        super().__init__(beta=1.0, num_particles=num_particles)
        self.start = within("start", start, low=0, high=1)
        self.num_epochs = positive("num_epochs", num_epochs)
        self.num_cycles = positive_int("num_cycles", num_cycles)
        self.rise = within("rise", positive("rise", rise), high=1)
        self.at_step(0, 0.0)

    def at_step(self, step: int, epoch: float) -> Hashable:
        """Set β to its value at this epoch."""
        rising = epoch < self.num_epochs
        cycle = epoch * self.num_cycles / self.num_epochs % 1
        self.beta.fill_(self.start + (1 - self.start) * min(1.0, cycle / self.rise) if rising else 1.0)
        return None
