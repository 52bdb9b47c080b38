"""The ELBO with a KL that costs nothing up to a threshold."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import BadInput, positive
from pyro_vae.objectives.elbo import TraceMeanField_ELBO
from pyro_vae.objectives.latents import closed_form_kl
from pyro_vae.parallel import collectives
from pyro_vae.programs.missing import X_MIS
from pyro_vae.programs.trace import Program


class FreeBits(TraceMeanField_ELBO):
    """E_q[log p(x | z)] − Σ_j max(λ, KL_j), with KL_j of layer j averaged over the batch: below λ the KL is free.

    Kingma et al. (2016), Improved variational inference with inverse autoregressive flow,
    https://arxiv.org/abs/1606.04934, eq. 15, with a stochastic layer (a latent site) as a group.

    Args:
        free_nats: λ, in nats per layer.
        num_particles: draws of z per datapoint.

    Raises:
        BadInput: if free_nats is not positive and finite.

    Example:
        >>> bound = FreeBits(free_nats=0.5).bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "free_bits"

    def __init__(self, free_nats: float = 0.5, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.free_nats = positive("free_nats", free_nats)

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Also reject several processes: each sees a share of the batch, but λ bounds the mean over all of it."""
        if collectives.world_size() > 1:
            raise BadInput("objective=free_bits needs the KL of a whole batch: start it without torchrun")
        return super().check(model, guide, x, y)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        """Return the loss summed over the traces' particles, as a number and with its gradient."""
        names = [name for name in guide_trace.stochastic_nodes if name != X_MIS]  # which adds no KL
        sites: list[Any] = [(guide_trace.nodes[name], model_trace.nodes[name]) for name in names]
        loss = torch.zeros(())
        for name in model_trace.observation_nodes:
            loss = loss - model_trace.nodes[name]["log_prob_sum"]
        for q, p in sites:
            exact = closed_form_kl(q["fn"], p["fn"]) if len(sites) == 1 else None
            kl = q["log_prob_sum"] - p["log_prob_sum"] if exact is None else exact.sum()
            loss = loss + kl.clamp_min(self.free_nats * q["log_prob"].numel())
        return loss.item(), loss
