"""Naive Monte Carlo with the prior as the proposal, to show why it fails."""

from __future__ import annotations

from dataclasses import replace

from pyro import poutine
from torch import Tensor

from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import Progress
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.importance import Importance
from pyro_vae.programs.trace import Program


def prior_of(model: Program) -> Program:
    """Return the model without its observed sites: p(z), as a guide."""
    return poutine.block(model, hide_fn=lambda site: bool(site["type"] == "sample" and site["is_observed"]))


class Prior(Importance):
    """Estimates log p̂(x) = log (1/K) Σ_k p(x | z_k) with z_k ~ p(z): importance sampling from the model's prior.

    Few draws land where p(z | x) has its mass, so the effective sample size stays near 1 and the estimate falls short
    by many nats. Arguments and errors are those of `Importance`; `elbo` is the guide's.

    Example:
        >>> Prior(1000)(vae.model, vae.guide, x).ess.shape
        torch.Size([20])
    """

    name = "prior"

    def advice(self, discrete: bool = False) -> str | None:
        """Advise to propose from the guide, or from a fit to each datapoint."""
        return "use estimator=importance, which proposes from the guide" if discrete else super().advice()

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`."""
        evidence = super().estimate(model, prior_of(model), x, y, progress)
        return replace(evidence, elbo=guide_elbo(model, guide, x, y))
