"""The ELBO, maximized in turns: first in the guide's parameters, then in the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.objectives.elbo import Trace_ELBO, TraceMeanField_ELBO
from pyro_vae.objectives.objective import Traces
from pyro_vae.objectives.theta_phi import gradient_only_of, theta_and_phi
from pyro_vae.programs.trace import Program


class VariationalEM(TraceMeanField_ELBO):
    """Alternates between `e_steps` steps that raise the ELBO in φ and `m_steps` steps in θ with q(z | x) held fixed.

    Neal & Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants. Parameters
    that a step does not move have no gradient (`.grad` is None), so an optimizer's momentum does not move them either.

    Args:
        e_steps: steps in φ, the guide's parameters.
        m_steps: steps in θ, the model's parameters, including those that the guide shares.
        num_particles: draws of z per datapoint.

    Attributes:
        step: optimizer steps done, set by `at_step`.

    Raises:
        BadInput: if an argument is not a positive integer.

    Example:
        >>> objective = VariationalEM(e_steps=5, m_steps=10)
        >>> [objective.at_step(step, epoch=0.0) for step in (4, 5, 14, 15)]  # whether it is an E-step
        [True, False, False, True]
    """

    name: ClassVar[str] = "variational_em"
    num_variants: ClassVar[int] = 2

    def __init__(self, e_steps: int = 1, m_steps: int = 1, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.e_steps = positive_int("e_steps", e_steps)
        self.m_steps = positive_int("m_steps", m_steps)
        self.step = 0

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Return a note if draws are not reparameterized; EM's E-step for a discrete latent is its exact posterior."""
        return Trace_ELBO.check(self, model, guide, x, y)

    def at_step(self, step: int, epoch: float) -> bool:
        """Return whether this step is one in φ."""
        self.step = step
        return self._is_e_step

    @property
    def _is_e_step(self) -> bool:
        return self.step % (self.e_steps + self.m_steps) < self.e_steps

    def _loss(self, traces: list[Traces]) -> Tensor:
        """Return −ELBO with a gradient for φ or for θ; set `.grad` of the others to None."""
        loss = super()._loss(traces)
        theta, phi = theta_and_phi(*traces[-1])
        moving, fixed = (phi, theta) if self._is_e_step else (theta, phi)
        if loss.requires_grad:
            for parameter in fixed:
                parameter.grad = None
        return gradient_only_of(moving, loss)

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[Traces]:
        guide = guide if self._is_e_step else torch.no_grad()(guide)
        return super()._get_traces(model, guide, args, kwargs)
