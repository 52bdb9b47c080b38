"""Importance sampling of log p(x): the estimator of the IWAE paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate, sample_sizes
from pyro_vae.marginal.weights import Program, stream


class Importance(Estimator):
    """log p̂(x) = log (1/K) Σ_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x).

    Its expectation never exceeds log p(x) and rises with K. Burda, Grosse & Salakhutdinov (2016),
    Importance Weighted Autoencoders, eq. 8, https://arxiv.org/abs/1509.00519.

    Args:
        num_samples: K; several make a curve, `LogEvidence.curve`, of one set of samples.
        chunk_size: pairs (sample, datapoint) in memory at once.

    Raises:
        BadInput: if one of them is no positive whole number.

    Example:
        >>> evidence = Importance(num_samples=5000)(vae.model, vae.guide, x)  # doctest: +SKIP
        >>> evidence.log_px, evidence.se, evidence.ess                        # doctest: +SKIP
    """

    def __init__(self, num_samples: int | Sequence[int] = 5000, chunk_size: int = 4096) -> None:
        self.sizes = sample_sizes(num_samples)
        self.num_samples = self.sizes[-1]
        self.chunk_size = positive_int("estimator.chunk_size", chunk_size)

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimates for x `[N, ...]`."""
        chunks = stream(model, guide, x, y, num_samples=self.num_samples, chunk_size=self.chunk_size, progress=progress)
        return LogEvidence.cat([accumulate(blocks, self.sizes, self.reduce) for blocks in chunks])

    def reduce(self, sums: Accumulator) -> LogEvidence:
        """The estimate from sums over all K log-weights."""
        return sums.log_mean()
