"""Bounds on log p(x) from several weighted draws of z per datapoint."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import BadInput, within
from pyro_vae.objectives.elbo import Trace_ELBO
from pyro_vae.objectives.latents import latents, needs_density, needs_reparameterized
from pyro_vae.objectives.negligible import without_negligible
from pyro_vae.objectives.objective import Bound, Objective, Traces
from pyro_vae.programs.trace import Program, log_prob, random_sites, share_of


class DetachDraws(Messenger):
    """Makes draws constants to the gradient, also in the rest of the program that draws them.

    `Trace.detach_` would be too late: q(z_2 | z_1) has been computed from z_1 by then.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class MultiSample(Trace_ELBO):
    """A bound and a gradient estimator computed from log p(x_n, z_k) and log q(z_k | x_n), both `[K, N]`, in nats.

    Args:
        num_particles: K.
    """

    differentiates_draws: ClassVar[bool] = True
    """Whether the gradient passes through z; otherwise z is a constant to it."""

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles, vectorize_particles=True)

    def of_weights(self, log_w: Tensor) -> Tensor:
        """Return the bound on log p(x_n), `[N]` in nats, from log w = log p(x, z) − log q(z | x) `[K, N]`."""
        return log_w.mean(0)

    def surrogate(self, log_p: Tensor, log_q: Tensor, traces: Traces) -> Tensor:
        """Return a scalar whose gradient estimates that of the bound, summed over the batch."""
        return self.of_weights(log_p - log_q).sum()

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Reject a guide without a density, which weights its draws, or whose gradient does not exist."""
        sites = latents(model, guide, x, y)
        needs_density(self.name, sites)
        if self.differentiates_draws:
            needs_reparameterized(self.name, sites)
        return None

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return −bound in nats, summed over the batch."""
        with torch.no_grad():
            (traces,) = self._get_traces(model, guide, args, kwargs)
            log_p, log_q, share = self._log_densities(traces, args[0])
            return -share * self.of_weights(log_p - log_q).sum().item()

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Bound:
        """Evaluate the bound on a batch; `args[0]` is x `[N, *data_shape]`."""
        (traces,) = self._get_traces(model, guide, args, kwargs)
        elbo, log_likelihood = self._elbo([traces])
        log_p, log_q, share = self._log_densities(traces, args[0])
        surrogate = self.surrogate(log_p, log_q, traces)
        loss = -(self.of_weights((log_p - log_q).detach()).sum() + (surrogate - surrogate.detach()))
        return Bound(loss if share == 1 else share * loss, elbo, log_likelihood)

    def _log_densities(self, traces: Traces, x: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return log p(x_n, z_k) and log q(z_k | x_n), and how many datapoints each one of a subsample stands for."""
        log_p, log_q = (log_prob(trace, self.num_particles, x, scaled=True) for trace in traces)
        frames = {frame.name: frame for site in random_sites(traces[0]).values() for frame in site["cond_indep_stack"]}
        share = math.prod(map(share_of, frames.values()))
        return (log_p, log_q, share) if share == 1 else (log_p / share, log_q / share, share)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Traces:
        with nullcontext() if self.differentiates_draws else DetachDraws():
            return super()._get_trace(model, guide, args, kwargs)


class Renyi(MultiSample):
    """L_α = 1/(1−α) Σ_n log (1/K) Σ_k w_nk^(1−α), w = p(x, z) / q(z | x): for α ≥ 0 a bound on log p(x).

    Li & Turner (2016), Rényi divergence variational inference, https://arxiv.org/abs/1602.02311, §4.1.
    `pyro.infer.RenyiELBO` weights the whole batch; here each datapoint has its weights.

    Args:
        alpha: α, not 1.
        num_particles: K.

    Raises:
        BadInput: if alpha is not finite, or so close to 1 that this is the ELBO.

    Example:
        >>> bound = Renyi(alpha=0.5, num_particles=10).bound(vae.model, vae.guide, x)
        >>> bool(-bound.loss > bound.elbo)
        True
    """

    name: ClassVar[str] = "renyi"

    def __init__(self, alpha: float = 0.5, num_particles: int = 50) -> None:
        super().__init__(num_particles)
        self.alpha = within("alpha", alpha)
        if abs(1 - self.alpha) < 1e-3:
            raise BadInput(f"alpha={alpha} is the ELBO: use objective=trace_elbo")

    def for_validation(self, num_particles: int) -> Objective:
        """Return L_α with the same K: another number of draws is another bound."""
        return Renyi(self.alpha, self.num_particles)

    def of_weights(self, log_w: Tensor) -> Tensor:
        """Return L_α of each datapoint."""
        powers = without_negligible((1 - self.alpha) * log_w)
        return powers.logsumexp(0).sub(math.log(len(log_w))) / (1 - self.alpha)


class IWAE(Renyi):
    """L_K = Σ_n log (1/K) Σ_k w_nk, w = p(x, z) / q(z | x), which rises with K to log p(x).

    Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        num_particles: K.

    Example:
        >>> bound = IWAE(num_particles=10).bound(vae.model, vae.guide, x)
        >>> bool(-bound.loss > bound.elbo)
        True
    """

    name: ClassVar[str] = "iwae"

    def __init__(self, num_particles: int = 50) -> None:
        super().__init__(alpha=0.0, num_particles=num_particles)
