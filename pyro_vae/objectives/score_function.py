"""The ELBO with a gradient that does not differentiate draws."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vae.objectives.importance_weighted import MultiSample
from pyro_vae.objectives.objective import Traces


class ScoreFunction(MultiSample):
    """∇_φ ELBO = E_q[(log w − b) ∇_φ log q(z | x)], for any guide, including discrete ones.

    REINFORCE, as in Ranganath, Gerrish & Blei (2014), Black box variational inference,
    https://arxiv.org/abs/1401.0118, eq. 2; with several particles b_k is the mean log w of the others: Kool, van Hoof &
    Welling (2019), Buy 4 REINFORCE samples, get a baseline for free!, https://openreview.net/forum?id=r1lgTGL5DE.

    Args:
        num_particles: K, draws of z per datapoint.

    Example:
        >>> bound = ScoreFunction(num_particles=10).bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "score_function"
    differentiates_draws: ClassVar[bool] = False

    def __init__(self, num_particles: int = 10) -> None:
        super().__init__(num_particles)

    def surrogate(self, log_p: Tensor, log_q: Tensor, traces: Traces) -> Tensor:
        """Return Σ_n mean_k log p + (log w − b) log q, where log w and b are constants."""
        K, log_w = len(log_p), (log_p - log_q).detach()
        advantage = (log_w - log_w.mean(0)) * K / (K - 1) if K > 1 else log_w
        return (log_p + advantage * log_q).mean(0).sum()
