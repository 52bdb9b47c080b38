"""Pyro's ELBOs, which here also keep what the particles just drawn say of the ELBO and of its parts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, ClassVar

import pyro.infer
import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.objectives.latents import closed_form_kl, latents, needs_reparameterized
from pyro_vae.programs.trace import Program, base_of


def surrogate_loss(elbo: Any, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """Pyro's `elbo.differentiable_loss`, but for its look at the value, which no graph can hold."""
    loss: Any = 0.0
    surrogate: Any = 0.0
    for traces in elbo._get_traces(model, guide, args, kwargs):
        value, differentiable = elbo._differentiable_loss_particle(*traces)
        loss = loss + value / elbo.num_particles
        surrogate = surrogate + differentiable / elbo.num_particles
    return loss + (surrogate - surrogate.detach())


class Trace_ELBO(pyro.infer.Trace_ELBO):
    """`pyro.infer.Trace_ELBO`: −ELBO by Monte Carlo, log q(z | x) − log p(z) at the drawn z.

    The ELBO of Kingma & Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114, eq. 2. Draws
    that are not reparameterized get the score function's gradient.

    Args:
        num_particles: draws of z a datapoint, vectorized at dim −2.
        max_plate_nesting: the data's plate is at dim −1.
        **kwargs: others of `pyro.infer.ELBO`.

    Attributes:
        num_variants: of the program, see `variant`.
        step: optimizer steps done, set by the trainer.
        epoch: epochs done, with a fraction, set by the trainer.
        kl_weight: weight of the KL in the objective where training ends.
        elbo: Σ_n mean_k log p(x_n, z_k) − log q(z_k | x_n), nats, detached: the ELBO of the last particles, without any
            weight of the objective. Where q is a point, log p(z) − log q(z | x) counts as 0.
        log_likelihood: Σ_n mean_k log p(x_n | z_k), nats, detached.

    Raises:
        BadInput: if num_particles is no positive whole number.
    """

    name: ClassVar[str] = "trace_elbo"
    num_variants: ClassVar[int] = 1
    step: int = 0
    epoch: float = 0.0
    kl_weight: float = 1.0
    elbo: Tensor
    log_likelihood: Tensor
    num_particles: int

    def __init__(self, num_particles: int = 1, max_plate_nesting: int = 1, **kwargs: Any) -> None:
        positive_int("num_particles", num_particles)
        kwargs.setdefault("vectorize_particles", num_particles > 1)
        super().__init__(num_particles, max_plate_nesting, **kwargs)  # type: ignore[no-untyped-call]

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """A note for the user, if there is something to know of this objective with this model and guide.

        Raises:
            BadInput: if it cannot train them.
        """
        if all(q.has_rsample for q, _ in latents(model, guide, x, y).values()):
            return None
        return (
            f"objective={self.name} takes the score function's gradient of draws that are not reparameterized, without "
            "a baseline; objective=score_function has one"
        )

    @property
    def variant(self) -> Hashable:
        """Which of `num_variants` programs the next loss is, where `step` chooses: each is compiled apart."""
        return None

    def for_validation(self, num_particles: int) -> Trace_ELBO:
        """What tells how far the bound has come, by that many draws if it is the same for any number of them.

        A weight of the KL (`kl_weight`) is left to the caller.
        """
        return Trace_ELBO(num_particles)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """−bound in nats, summed over the batch, with the estimator's gradient."""
        return surrogate_loss(self, model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """−bound in nats, summed over the batch, and its gradient in `.grad` of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        self.log_likelihood = kl = torch.zeros(())
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):  # type: ignore[no-untyped-call]
            for name in model_trace.observation_nodes:
                self.log_likelihood = self.log_likelihood + self._mean(model_trace, name)
            for name in guide_trace.stochastic_nodes:
                if not isinstance(base_of(guide_trace.nodes[name]["fn"]), Delta):
                    kl = kl + self._mean(guide_trace, name) - self._mean(model_trace, name)
            self.elbo = self.log_likelihood - kl
            yield model_trace, guide_trace

    def _mean(self, trace: Trace, name: str) -> Tensor:
        """A site's log-density, summed over the batch: what these particles add to the mean over all."""
        log_prob: Tensor = trace.nodes[name]["unscaled_log_prob"]
        return log_prob.detach().sum() / self.num_particles


class TraceMeanField_ELBO(Trace_ELBO, pyro.infer.TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`: −ELBO with KL(q ‖ p) in closed form where there is one.

    Kingma & Welling (2014), eq. 3. With several latent sites the KL of z_1 depends on the draw of z_2, which Pyro's
    mean-field condition excludes: then all of it is by Monte Carlo, as in `Trace_ELBO`.
    """

    name: ClassVar[str] = "trace_mean_field_elbo"

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Refuse draws that are not reparameterized; a note where the KL is not in closed form."""
        sites = latents(model, guide, x, y)
        needs_reparameterized(self.name, sites)
        if len(sites) > 1:
            return f"objective={self.name}: with {len(sites)} latent sites the KL is estimated by Monte Carlo"
        if any(closed_form_kl(q, p) is None for q, p in sites.values()):
            return f"objective={self.name}: the KL of this guide and prior has no closed form, Monte Carlo estimates it"
        return None

    _get_trace = pyro.infer.Trace_ELBO._get_trace  # Pyro's warns of several sites, which are dealt with below

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        one = len(guide_trace.stochastic_nodes) == 1 == len(guide_trace.reparameterized_nodes)
        objective = pyro.infer.TraceMeanField_ELBO if one else pyro.infer.Trace_ELBO
        return objective._differentiable_loss_particle(self, model_trace, guide_trace)
