"""Separate losses for model and guide: the guide is fitted to the posterior, not to a bound."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import BadInput, within
from pyro_vae.objectives.importance_weighted import IWAE
from pyro_vae.objectives.negligible import without_negligible
from pyro_vae.objectives.objective import Bound, Traces
from pyro_vae.objectives.theta_phi import gradient_only_of, theta_and_phi
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.trace import Program, random_sites, trace


class ReweightedWakeSleep(IWAE):
    """Ascends the IWAE's bound in θ, and log q at draws from weighted particles (wake) and the model (sleep) in φ.

    Wake-θ Σ_k w̃_k ∇_θ log p(x, z_k); wake-φ Σ_k w̃_k ∇_φ log q(z_k | x); sleep-φ ∇_φ log q(z | x) at (x, z) ~ p, one
    pair per datapoint. No gradient passes through z, which may be discrete. Bornschein & Bengio (2015), Reweighted
    wake-sleep, https://arxiv.org/abs/1406.2751; Le et al. (2019), Revisiting reweighted wake-sleep,
    https://arxiv.org/abs/1805.10469. `pyro.infer.ReweightedWakeSleep` weights the whole batch; here each datapoint
    has its weights. The guide's first argument is x, the model has one observed site.

    Args:
        num_particles: K.
        insomnia: weight of wake-φ; sleep-φ has the rest.

    Raises:
        BadInput: if insomnia is not in [0, 1], or is positive with a single particle, whose weight is always 1.

    Example:
        >>> bound = ReweightedWakeSleep(num_particles=10).bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "reweighted_wake_sleep"
    differentiates_draws: ClassVar[bool] = False

    def __init__(self, num_particles: int = 10, insomnia: float = 1.0) -> None:
        super().__init__(num_particles)
        self.insomnia = within("insomnia", insomnia, low=0, high=1)
        if num_particles == 1 and self.insomnia > 0:
            raise BadInput("num_particles=1 has no weights to learn from: use 2 or more, or insomnia=0")

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Also reject models that observe a mask, whose dreams lack it."""
        note = super().check(model, guide, x, y)
        with torch.no_grad(), poutine.block():
            sites = random_sites(trace(model, *next(slices(2, x, y)), num_samples=1))
        observed = [name for name, site in sites.items() if site["is_observed"]]
        if self.insomnia < 1 and len(observed) > 1:
            raise BadInput(
                f"insomnia={self.insomnia} dreams of x alone, but this model observes {', '.join(observed)}: use "
                "insomnia=1"
            )
        return note

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Bound:
        """Evaluate L_K on a batch, with the gradients of both losses."""
        bound = super().bound(model, guide, *args, **kwargs)
        if self.insomnia == 1:
            return bound
        sleep = (1 - self.insomnia) * self.dream(model, guide, *args, **kwargs)
        return bound._replace(loss=bound.loss - (sleep - sleep.detach()))

    def surrogate(self, log_p: Tensor, log_q: Tensor, traces: Traces) -> Tensor:
        """Return Σ w̃ log p for θ plus Σ w̃ log q for φ."""
        theta, phi = theta_and_phi(*traces)
        weights = without_negligible((log_p - log_q).detach()).softmax(0)
        wake_phi = self.insomnia * (weights * log_q).sum()
        return gradient_only_of(theta, (weights * log_p).sum()) + gradient_only_of(phi, wake_phi)

    def dream(self, model: Program, guide: Program, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return Σ_n log q(z_n | x_n) in nats, with a gradient for φ, at one draw (x_n, z_n) ~ p per datapoint."""
        with torch.no_grad():
            draws = poutine.trace(poutine.uncondition(model)).get_trace(x, *args, **kwargs)
        sites: list[Any] = [draws.nodes[name] for name in draws.stochastic_nodes]
        (dreamt,) = (site["value"] for site in sites if site["infer"].get("was_observed"))
        if x.is_floating_point():  # as little is observed as of x: the encoder sees the mask, too
            dreamt = torch.where(x.isnan(), torch.nan, dreamt)
        replayed = poutine.trace(poutine.replay(guide, trace=draws)).get_trace(dreamt, *args, **kwargs)
        log_q: Any = replayed.log_prob_sum()
        return gradient_only_of(theta_and_phi(draws, replayed)[1], log_q)
