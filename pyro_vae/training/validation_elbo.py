"""The ELBO of a whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.compilation.compiled import Compiled, TakeOnly
from pyro_vae.compilation.kernels import OF_PROCESS, Kernels
from pyro_vae.objectives import Objective, Trace_ELBO
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.vae import VAE


class MeanELBO:
    """Computes the ELBO of data, its log-likelihood part, and an objective's bound, in nats per datapoint.

    For a guide that is a point, the bound includes the log-density of that point, log p(x, z); the first two do not.

    Args:
        vae: the model and guide.
        objective: the bound and its number of draws: an objective's `for_validation`.
        chunk_size: pairs (draw, datapoint) in memory at once.
    """

    def __init__(self, vae: VAE, objective: Objective | None = None, chunk_size: int = 4096) -> None:
        self.vae = vae
        self.objective = objective or Trace_ELBO()
        self.num_rows: int = max(1, chunk_size // self.objective.num_particles)
        self.sums: Callable[[Tensor, Tensor | None], Tensor] = self._sums

    def __call__(self, x: Tensor, y: Tensor | None = None) -> tuple[float, float, float]:
        """Return the three numbers for x `[N, *data_shape]` and y `[N]`; NaN if they are empty."""
        if not len(x):
            return math.nan, math.nan, math.nan
        with torch.no_grad(), pyro.validation_enabled(False), eval_mode(self.vae):
            total: Any = sum(self.sums(*rows) for rows in slices(self.num_rows, x, y))
        elbo, log_likelihood, bound = (total / len(x)).tolist()
        return elbo, log_likelihood, bound

    def compile(
        self,
        x: Tensor,
        y: Tensor | None = None,
        kernels: Kernels | None = OF_PROCESS,
        take_only: TakeOnly = Compiled.take_only,
    ) -> None:
        """Compile for data like these; a smaller last chunk runs eagerly. Random generators do not change.

        For `kernels`, see `Compiled`.
        """

        def dry_run() -> None:
            with fork_rng(x):
                self(*next(slices(self.num_rows, x, y)))

        if len(x):
            self.sums = compiled = Compiled(self._sums, kernels=kernels)
            take_only(compiled, dry_run)

    def _sums(self, x: Tensor, y: Tensor | None) -> Tensor:
        loss, elbo, log_likelihood = self.objective.bound(self.vae.model, self.vae.guide, x, y)
        return torch.stack([elbo, log_likelihood, -loss]).double()
