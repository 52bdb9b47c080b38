"""The ELBO alone, without an estimate of log p(x)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import datapoints
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.programs.trace import Program


class NoEstimate(Estimator):
    """Estimates only the guide's `elbo`, from 10 draws per datapoint; all other values are NaN.

    Args:
        **settings: of the estimator that this one replaces, e.g. in an experiment; they have no effect.

    Example:
        >>> bool(NoEstimate()(vae.model, vae.guide, x).elbo.isfinite().all())
        True
    """

    name = "none"
    num_samples = 0
    estimates = False

    def __init__(self, **settings: Any) -> None:
        pass

    def task(self, num_data: int) -> str:
        """Describe the work, for the progress bar."""
        return f"estimating the ELBO of {datapoints(num_data)}"

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate the ELBO for x `[N, ...]`."""
        elbo = guide_elbo(model, guide, x, y)
        unknown = torch.full_like(elbo, math.nan)
        return LogEvidence(unknown, unknown, unknown, unknown, elbo, num_samples=0)
