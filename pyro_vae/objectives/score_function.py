"""The ELBO's gradient without differentiating through draws."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vae.objectives.importance_weighted import MultiSample


class ScoreFunction(MultiSample):
    """∇_φ ELBO = E_q[(log w − b) ∇_φ log q(z | x)], for guides of any kind, discrete ones among them.

    REINFORCE, as in Ranganath, Gerrish & Blei (2014), Black box variational inference,
    https://arxiv.org/abs/1401.0118, eq. 2; with several particles b_k is the mean log w of the others: Kool, van Hoof &
    Welling (2019), Buy 4 REINFORCE samples, get a baseline for free!, https://openreview.net/forum?id=r1lgTGL5DE.

    Args:
        num_particles: K, draws of z a datapoint.
    """

    name: ClassVar[str] = "score_function"
    differentiates_draws: ClassVar[bool] = False

    def __init__(self, num_particles: int = 10) -> None:
        super().__init__(num_particles)

    def surrogate(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Σ_n mean_k log p + (log w − b) log q, log w and b being constants."""
        K, log_w = len(log_p), (log_p - log_q).detach()
        advantage = (log_w - log_w.mean(0)) * K / (K - 1) if K > 1 else log_w
        return (log_p + advantage * log_q).mean(0).sum()
