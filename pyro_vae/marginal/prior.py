"""Naive Monte Carlo with the prior as the proposal: kept to show why it fails."""

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
    """The model without its observed sites: p(z), as a guide."""
    return poutine.block(model, hide_fn=lambda site: bool(site["type"] == "sample" and site["is_observed"]))


class Prior(Importance):
    """log p̂(x) = log (1/K) Σ_k p(x | z_k), z_k ~ p(z): importance sampling whose guide is the model's own prior.

    Hardly a draw lands where p(z | x) has its mass: the effective sample size stays near 1 and the estimate
    falls short by many nats. Arguments and errors as for `Importance`; `elbo` is the guide's.
    """

    def advice(self, discrete: bool = False) -> str | None:
        """The guide as a proposal, or one for each datapoint."""
        return "take estimator=importance, whose proposal is the guide" if discrete else super().advice()

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimates for x `[N, ...]`."""
        evidence = super().estimate(model, prior_of(model), x, y, progress)
        return replace(evidence, elbo=guide_elbo(model, guide, x, y))
