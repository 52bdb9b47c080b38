"""Pyro's ELBOs, which here also keep the reconstruction term of what they evaluated.

ELBO = E_q[log p(x | z)] − KL: with the first term known, the KL part of every step costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro.infer
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import positive_int

Program = Callable[..., Any]


class _KeepsLogLikelihood(pyro.infer.ELBO):
    """Mixin over Pyro's trace-based ELBOs.

    Attributes:
        log_likelihood: Σ log p(x | z) of the last loss, in nats: the observed sites summed over the batch,
            averaged over the particles, detached.
    """

    log_likelihood: Tensor
    num_particles: int

    def __init__(self, num_particles: int = 1, max_plate_nesting: int = 1, **kwargs: Any) -> None:
        positive_int("objective.num_particles", num_particles)
        super().__init__(  # type: ignore[no-untyped-call]
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=kwargs.pop("vectorize_particles", num_particles > 1),
            **kwargs,
        )

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        self.log_likelihood = torch.zeros(())
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):  # type: ignore[no-untyped-call]
            for site in model_trace.nodes.values():
                if site["type"] == "sample" and site["is_observed"]:
                    part = site["log_prob_sum"].detach() / self.num_particles
                    self.log_likelihood = self.log_likelihood + part
            yield model_trace, guide_trace


class Trace_ELBO(_KeepsLogLikelihood, pyro.infer.Trace_ELBO):
    """`pyro.infer.Trace_ELBO`: −ELBO by Monte Carlo, log q − log p(z) at the drawn z."""


class TraceMeanField_ELBO(_KeepsLogLikelihood, pyro.infer.TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`: −ELBO with the analytic KL(q ‖ p) where there is one."""
