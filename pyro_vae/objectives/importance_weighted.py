"""Bounds on log p(x) from several draws of z, weighted per datapoint."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import BadInput, within
from pyro_vae.objectives.elbo import Trace_ELBO
from pyro_vae.objectives.latents import latents, needs_density, needs_reparameterized
from pyro_vae.programs.trace import Program, log_prob


class DetachDraws(Messenger):
    """Makes draws constants to the gradient, for the rest of the program that draws them as well.

    `Trace.detach_` would come too late for that: q(z_2 | z_1) has been made of z_1 then.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class MultiSample(Trace_ELBO):
    """A bound and a gradient estimator made of log p(x_n, z_k) and log q(z_k | x_n), both `[K, N]`, nats.

    Args:
        num_particles: K.
    """

    differentiates_draws: ClassVar[bool] = True
    """Whether the gradient goes through z; else z is a constant to it."""

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, vectorize_particles=True)

    def bound(self, log_w: Tensor) -> Tensor:
        """The bound on log p(x_n) from log w = log p(x, z) − log q(z | x) `[K, N]`: `[N]`, nats."""
        return log_w.mean(0)

    def surrogate(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """A scalar whose gradient is the estimator of the bound's, summed over the batch."""
        return self.bound(log_p - log_q).sum()

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Refuse a guide without a density to weigh its draws by, or whose gradient does not exist."""
        sites = latents(model, guide, x, y)
        needs_density(self.name, sites)
        if self.differentiates_draws:
            needs_reparameterized(self.name, sites)
        return None

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """−bound in nats, summed over the batch."""
        with torch.no_grad():
            log_p, log_q = self._log_densities(model, guide, args, kwargs)
            return -self.bound(log_p - log_q).sum().item()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """−bound in nats, summed over the batch, with the estimator's gradient."""
        log_p, log_q = self._log_densities(model, guide, args, kwargs)
        surrogate = self.surrogate(log_p, log_q)
        return -(self.bound((log_p - log_q).detach()).sum() + (surrogate - surrogate.detach()))

    def _log_densities(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        K, x = self.num_particles, args[0]
        return log_prob(model_trace, K, x), log_prob(guide_trace, K, x)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        with nullcontext() if self.differentiates_draws else DetachDraws():
            return super()._get_trace(model, guide, args, kwargs)  # type: ignore[no-untyped-call]


class Renyi(MultiSample):
    """L_α = 1/(1−α) Σ_n log (1/K) Σ_k w_nk^(1−α), w = p(x, z) / q(z | x): for α ≥ 0 a bound on log p(x).

    Li & Turner (2016), Rényi divergence variational inference, https://arxiv.org/abs/1602.02311, §4.1. Where
    `pyro.infer.RenyiELBO` weighs the whole batch, each datapoint has weights of its own here.

    Args:
        alpha: α, not 1.
        num_particles: K.

    Raises:
        BadInput: if alpha is no finite number, or so near 1 that this is the ELBO.
    """

    name: ClassVar[str] = "renyi"

    def __init__(self, alpha: float = 0.5, num_particles: int = 50) -> None:
        super().__init__(num_particles)
        self.alpha = within("alpha", alpha)
        if abs(1 - self.alpha) < 1e-3:
            raise BadInput(f"alpha={alpha} is the ELBO: take objective=trace_elbo")

    def for_validation(self, num_particles: int) -> Trace_ELBO:
        """L_α of its own K: other numbers of draws make another bound."""
        return Renyi(self.alpha, self.num_particles)

    def bound(self, log_w: Tensor) -> Tensor:
        """L_α of each datapoint."""
        return ((1 - self.alpha) * log_w).logsumexp(0).sub(math.log(len(log_w))) / (1 - self.alpha)


class IWAE(Renyi):
    """L_K = Σ_n log (1/K) Σ_k w_nk, w = p(x, z) / q(z | x), which rises with K to log p(x).

    Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        num_particles: K.
    """

    name: ClassVar[str] = "iwae"

    def __init__(self, num_particles: int = 50) -> None:
        super().__init__(alpha=0.0, num_particles=num_particles)
