"""Model and guide with a loss each: the guide is fitted to the posterior, not to a bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import BadInput, within
from pyro_vae.objectives.importance_weighted import IWAE
from pyro_vae.objectives.parameters import only, parameters
from pyro_vae.programs.trace import Program


class ReweightedWakeSleep(IWAE):
    """θ climbs the IWAE's bound; φ climbs log q at draws from the weighted particles (wake) and the model (sleep).

    Wake-θ Σ_k w̃_k ∇_θ log p(x, z_k); wake-φ Σ_k w̃_k ∇_φ log q(z_k | x); sleep-φ ∇_φ log q(z | x) at (x, z) ~ p, one
    pair a datapoint. No gradient goes through z, which may be discrete. Bornschein & Bengio (2015), Reweighted
    wake-sleep, https://arxiv.org/abs/1406.2751; Le et al. (2019), Revisiting reweighted wake-sleep,
    https://arxiv.org/abs/1805.10469. Where `pyro.infer.ReweightedWakeSleep` weighs the whole batch, each datapoint has
    weights of its own here. The guide takes x as its first argument, the model has one observed site.

    Args:
        num_particles: K.
        insomnia: share of wake-φ; the rest is sleep-φ.

    Raises:
        BadInput: if insomnia is not in [0, 1], or above 0 with a single particle, whose weight is 1.
    """

    name: ClassVar[str] = "reweighted_wake_sleep"
    differentiates_draws: ClassVar[bool] = False

    def __init__(self, num_particles: int = 10, insomnia: float = 1.0) -> None:
        super().__init__(num_particles)
        self.insomnia = within("insomnia", insomnia, low=0, high=1)
        if num_particles == 1 and self.insomnia > 0:
            raise BadInput("num_particles=1 has no weights to learn from: take 2 or more, or insomnia=0")

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """−L_K in nats, summed over the batch, with the gradients of both losses."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        if self.insomnia == 1:
            return loss
        sleep = (1 - self.insomnia) * only(self.dream(model, guide, *args, **kwargs), self._phi)
        return loss - (sleep - sleep.detach())

    def surrogate(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Σ w̃ log p for θ and Σ w̃ log q for φ."""
        weights = (log_p - log_q).detach().softmax(0)
        wake_phi = self.insomnia * (weights * log_q).sum()
        return only((weights * log_p).sum(), self._theta) + only(wake_phi, self._phi)

    def dream(self, model: Program, guide: Program, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Σ_n log q(z_n | x_n) at draws (x_n, z_n) of the model, as many as there are data: nats."""
        with torch.no_grad():
            draws = poutine.trace(poutine.uncondition(model)).get_trace(x, *args, **kwargs)
        sites: list[Any] = [draws.nodes[name] for name in draws.stochastic_nodes]
        (dreamt,) = (site["value"] for site in sites if site["infer"].get("was_observed"))
        replayed = poutine.trace(poutine.replay(guide, trace=draws)).get_trace(dreamt, *args, **kwargs)
        log_q: Any = replayed.log_prob_sum()
        return log_q

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        for traces in super()._get_traces(model, guide, args, kwargs):
            self._theta, self._phi = parameters(*traces)
            yield traces
