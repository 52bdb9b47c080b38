"""The ELBO, by Monte Carlo or with its KL in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import pyro.infer
import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.objectives.latents import closed_form_kl, latents, needs_reparameterized
from pyro_vae.objectives.objective import Bound, Objective, Traces
from pyro_vae.programs.trace import Program, base_of, unscaled_log_prob


def surrogate_loss(elbo: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """Return `elbo.differentiable_loss(...)` of a Pyro ELBO without reading its value, which a graph cannot contain."""
    return loss_of_traces(elbo, elbo._get_traces(model, guide, args, kwargs))


def loss_of_traces(elbo: Any, traces: Iterable[Traces]) -> Tensor:
    """Return a Pyro ELBO's loss of these traces, in nats, which carries its gradient estimator."""
    loss: Any = 0.0
    surrogate: Any = 0.0
    for pair in traces:
        value, differentiable = elbo._differentiable_loss_particle(*pair)
        loss = loss + value / elbo.num_particles
        surrogate = surrogate + differentiable / elbo.num_particles
    return loss + (surrogate - surrogate.detach())


class Trace_ELBO(Objective, pyro.infer.Trace_ELBO):
    """`pyro.infer.Trace_ELBO`: −ELBO by Monte Carlo, log q(z | x) − log p(z) at the drawn z.

    The ELBO of Kingma & Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114, eq. 2. Draws
    that are not reparameterized get the score function's gradient.

    Args:
        num_particles: draws of z per datapoint, vectorized at dim −2.
        **kwargs: arguments of `pyro.infer.ELBO`.

    Raises:
        BadInput: if num_particles is not a positive integer.

    Example:
        >>> bound = Trace_ELBO(num_particles=2).bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "trace_elbo"
    num_particles: int

    def __init__(self, num_particles: int = 1, **kwargs: Any) -> None:
        positive_int("num_particles", num_particles)
        kwargs.setdefault("vectorize_particles", num_particles > 1)
        kwargs.setdefault("max_plate_nesting", 1)  # the data's plate is at dim −1
        super().__init__(num_particles, **kwargs)  # type: ignore[no-untyped-call]

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Return a note if draws are not reparameterized."""
        if all(q.has_rsample for q, _ in latents(model, guide, x, y).values()):
            return None
        return (
            f"objective={self.name} uses the score function's gradient without a baseline for draws that are not "
            "reparameterized; objective=score_function has one"
        )

    def for_validation(self, num_particles: int) -> Objective:
        """Return the ELBO with `num_particles` draws."""
        return Trace_ELBO(num_particles)

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Bound:
        """Evaluate the bound on a batch."""
        traces: list[Traces] = list(self._get_traces(model, guide, args, kwargs))
        elbo, log_likelihood = self._elbo(traces)
        return Bound(self._loss(traces), elbo, log_likelihood)

    def _loss(self, traces: list[Traces]) -> Tensor:
        """Return −bound, summed over the batch, which carries the gradient estimator."""
        return loss_of_traces(self, traces)

    def _elbo(self, traces: list[Traces]) -> tuple[Tensor, Tensor]:
        """Return the ELBO and its log-likelihood, as in `Bound`."""
        log_likelihood = kl = torch.zeros(())
        for model_trace, guide_trace in traces:
            for name in model_trace.observation_nodes:
                log_likelihood = log_likelihood + self._mean(model_trace, name)
            q = [(name, guide_trace.nodes[name]) for name in guide_trace.stochastic_nodes]
            auxiliary = [name for name, site in q if (site["infer"] or {}).get("is_auxiliary")]  # of Pyro's autoguides
            for name, site in q:
                if name in auxiliary:  # latents are functions of it, and their Delta has the log-Jacobian
                    kl = kl + self._mean(guide_trace, name)
                elif auxiliary or not isinstance(base_of(site["fn"]), Delta):
                    kl = kl + self._mean(guide_trace, name) - self._mean(model_trace, name)
        return log_likelihood - kl, log_likelihood

    def _mean(self, trace: Trace, name: str) -> Tensor:
        """Return what a site's log-density adds to the mean over all particles, summed over the batch."""
        return unscaled_log_prob(trace.nodes[name]).detach().sum() / self.num_particles


class TraceMeanField_ELBO(Trace_ELBO, pyro.infer.TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`: −ELBO with KL(q ‖ p) in closed form where it has one.

    Kingma & Welling (2014), eq. 3. With several latent sites the KL of z_1 depends on the draw of z_2, which Pyro's
    mean-field condition excludes: Monte Carlo then estimates the whole KL, as in `Trace_ELBO`.

    Example:
        >>> from pyro.infer import SVI
        >>> from pyro.optim import Adam
        >>> svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())
        >>> svi.step(x) > 0
        True
    """

    name: ClassVar[str] = "trace_mean_field_elbo"

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Reject draws that are not reparameterized; return a note if the KL has no closed form."""
        sites = latents(model, guide, x, y)
        needs_reparameterized(self.name, sites)
        if len(sites) > 1:
            return f"objective={self.name}: with {len(sites)} latent sites the KL is estimated by Monte Carlo"
        if any(closed_form_kl(q, p) is None for q, p in sites.values()):
            return f"objective={self.name}: the KL of this guide and prior has no closed form, Monte Carlo estimates it"
        return None

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        one = len(guide_trace.stochastic_nodes) == 1 == len(guide_trace.reparameterized_nodes)
        objective = pyro.infer.TraceMeanField_ELBO if one else pyro.infer.Trace_ELBO
        return objective._differentiable_loss_particle(self, model_trace, guide_trace)
