"""The ELBO in place of an estimate of log p(x)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.errors import datapoints
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.programs.trace import Program


class NoEstimate(Estimator):
    """Leaves log p(x) out: only the guide's `elbo` is estimated, from 10 draws a datapoint; all else is NaN."""

    num_samples = 0

    @property
    def name(self) -> str:
        """`none`."""
        return "none"

    def task(self, num_data: int) -> str:
        """What is done, in words."""
        return f"estimating the ELBO of {datapoints(num_data)}"

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """The ELBO for x `[N, ...]`."""
        elbo = guide_elbo(model, guide, x, y)
        unknown = torch.full_like(elbo, math.nan)
        return LogEvidence(unknown, unknown, unknown, unknown, elbo, num_samples=0)
