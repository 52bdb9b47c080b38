"""What all estimators of log p(x) have in common: how they are called, and whom they refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import NoEvidence, datapoints
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.programs.checks import require_match, require_programs, require_tensors, vectorized
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.progress import progress as show_progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, base_of, trace

Progress = Callable[[int], Any]
"""Told of every K·N pairs' share done."""


class Estimator(ABC):
    """log p(x) of a Pyro model and guide whose datapoints lie in one plate at dim −1.

    Attributes:
        num_samples: K.
        compile: trace log-densities once and compile them: True, False, or `auto`: when they have taken as long as
            compiling takes.
    """

    num_samples: int
    compile: bool | str = "auto"

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None = None,
        progress: Progress | None = None,
    ) -> LogEvidence:
        """Estimates for x `[N, ...]` and, of a conditional model, labels y `[N]`, on the device of x.

        Pyro's effect handlers around this call do not reach the programs: wrap them instead, as in
        `poutine.scale(model, scale=0.5)`. Calls in several threads wait for each other.

        `progress` is told of pairs (sample, datapoint) as they are done; None: a bar or the log shows them.

        Raises:
            BadInput: as `check` does, and if x is empty.
        """
        require_tensors(x, y)
        require_programs(model, guide)
        with for_programs(x):
            x, y = ordinary(x), ordinary(y)
            with fork_rng(x):  # the same draws, checked or not
                self.check(model, guide, x, y)
            if progress is not None:
                return self.estimate(model, guide, x, y, progress)
            with show_progress(self.task(len(x)), len(x) * self.num_samples, "draw") as tick:
                return self.estimate(model, guide, x, y, tick)

    @property
    def name(self) -> str:
        """Its name in conf/estimator and in tables."""
        return type(self).__name__.lower()

    def task(self, num_data: int) -> str:
        """What is done, in words."""
        return f"estimating log p(x) of {datapoints(num_data)} by {self.name}, K = {self.num_samples}"

    def advice(self, discrete: bool = False) -> str | None:
        """What to do about unreliable estimates, given these settings; None if they are exact or bounds.

        Args:
            discrete: whether the latents are.
        """
        return None

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Refuse what this estimator cannot say anything of, before any work is done.

        Raises:
            NoEvidence: if the guide is a point.
            BadInput: if model or data are not for this estimator.
        """
        x, y = next(slices(2, x, y))
        with torch.no_grad(), vectorized():
            sites = trace(guide, x, y, num_samples=1).nodes.values()
        drawn = [site for site in sites if site["type"] == "sample" and not site["is_observed"]]
        if any(isinstance(base_of(site["fn"]), dist.Delta) for site in drawn):
            raise NoEvidence(
                "this is an autoencoder: its guide is a point, q(z | x) has no density and p(z) had no part in "
                "training: log p(x) says nothing; train with another guide, as in guide=diagonal"
            )
        require_match(model, guide, x, y)

    @abstractmethod
    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """The estimates; `check` has passed."""


class GradientEstimator(Estimator):
    """An estimator that follows the gradient of log p(x, z) in z."""

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Refuse a guide that is a point, and latents that are discrete or shared by all datapoints."""
        super().check(model, guide, x, y)
        Latents.of(model, x, y)
