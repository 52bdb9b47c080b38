"""R̂: whether Markov chains have converged to the same distribution, vectorized over datapoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def split_rhat(draws: Tensor) -> Tensor:
    """Compute the rank-normalized split R̂ of each datapoint, the largest over its dimensions.

    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization: an improved R̂,
    Bayesian Analysis 16(2), https://arxiv.org/abs/1903.08008. Folding shows chains that differ in scale. They
    recommend to use draws only if R̂ < 1.01; 1.05 is a common limit for short chains.

    Args:
        draws: `[T, C, N, D]`, at least 4 from each of C chains.

    Returns:
        R̂, `[N]`: about 1 where the halves of all chains agree; infinite where a draw is not finite.
    """
    half = len(draws) // 2
    halves = torch.cat([draws[:half], draws[-half:]], dim=1).double()  # [T/2, 2C, N, D]
    median = halves.flatten(0, 1).median(0).values
    rhat = torch.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores((halves - median).abs())))
    finite = draws.isfinite().all(0).all(0).all(-1)
    return torch.where(finite, rhat.amax(-1), math.inf)


def _normal_scores(values: Tensor) -> Tensor:
    """Replace values `[T, C, ...]` by the normal quantiles of their ranks among all draws of all chains."""
    pooled = values.flatten(0, 1)
    ranks = pooled.argsort(dim=0, stable=True).argsort(dim=0) + 1
    return torch.special.ndtri((ranks - 0.375) / (len(pooled) + 0.25)).reshape(values.shape)


def _rhat(values: Tensor) -> Tensor:
    """Compute the classic R̂ of `[T, C, ...]`: √(((T − 1)/T W + B/T) / W), `[...]`."""
    T = len(values)
    within, between = values.var(0).mean(0), T * values.mean(0).var(0)
    return ((T - 1) / T + between / (T * within)).sqrt()
