"""Distributions over the levels of a grid, and the frequencies of training data as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.likelihoods.moments import PART, level_counts, moments

NUM_STEPS = 50
"""EM steps for the weights of the four estimates; more gain less than 0.1 nats for 784 pixels."""


class Levels(TorchDistribution):
    """Pyro's Categorical over the values of a grid instead of indices; logits `[..., num_levels]`."""

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self._index = dist.Categorical(logits=logits, validate_args=validate_args)
        self._grid = Grid(int(logits.shape[-1]))  # a tensor in torch.jit.trace
        super().__init__(self._index.batch_shape, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """Log-probabilities of the levels, `[..., num_levels]`."""
        return self._index.logits

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Grid:
        """The levels."""
        return self._grid

    @property
    def mean(self) -> Tensor:
        """The mean level, of the batch shape."""
        levels = torch.arange(self._grid.num_levels).to(self.logits) / (self._grid.num_levels - 1)
        return self._index.probs @ levels

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Levels:
        """Return the distribution with another batch shape."""
        return Levels(self.logits.expand(*batch_shape, self._grid.num_levels), self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of values on the grid, nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._index.log_prob(self._grid.index(value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw levels."""
        return self._index.sample(torch.Size(sample_shape)).to(self.logits) / (self._grid.num_levels - 1)


def level_marginals(x: Tensor, grid: Grid) -> TorchDistributionMixin:
    """Return smoothed frequencies of the levels in each dimension of x `[N, *data_shape]`.

    The frequencies themselves are the best independent marginals of the training data, but levels that are rare or
    absent there make them poor on new data. They are therefore mixed with three smoother estimates: the frequencies in
    all dimensions together, a logistic of the same mean and variance, and equal probabilities. Each dimension has its
    own weights, which EM fits with each value's own datapoint left out of the frequencies (deleted interpolation:
    Jelinek & Mercer 1980, Interpolated estimation of Markov source parameters from sparse data). One more datapoint is
    spread evenly over the four. New data are about as likely as under mixtures of five logistics fitted to each
    dimension, which take a hundred times as long to fit.
    """
    counts, data = level_counts(x, grid), moments(x)
    pooled = counts.flatten(1).sum(1, keepdim=True) / (~x.isnan()).sum().item()
    size = max(1, PART // grid.num_levels)
    pieces = (tensor.split(size, -1) for tensor in (counts.flatten(1), data.mean.flatten(), data.sd.flatten()))
    probs = [_interpolated(n, pooled, _logistic(loc, sd, grid)) for n, loc, sd in zip(*pieces, strict=True)]
    levels: Any = Levels(torch.cat(probs, 1).log().reshape(counts.shape).movedim(0, -1))
    return levels.to_event(x.dim() - 1)


def _interpolated(counts: Tensor, pooled: Tensor, logistic: Tensor) -> Tensor:
    """Return probabilities `[num_levels, D]` from counts and logistics of that shape, and pooled `[num_levels, 1]`."""
    N = counts.sum(0)
    smooth = [pooled.expand_as(counts), logistic, torch.full_like(counts, 1 / len(counts))]
    left_out = torch.stack([(counts - 1).clamp(min=0) / (N - 1).clamp(min=1), *smooth])
    weights = counts.new_full((4, 1, counts.shape[1]), 0.25)
    for _ in range(NUM_STEPS):
        shares = weights * left_out
        weights = ((shares / shares.sum(0) * counts).sum(1, keepdim=True) + 0.25) / (N + 1)
    return (weights * torch.stack([counts / N, *smooth])).sum(0)


def _logistic(loc: Tensor, sd: Tensor, grid: Grid) -> Tensor:
    """Return probabilities `[num_levels, D]` of logistics with these means and standard deviations `[D]`.

    The first and last levels get the tails. A scale is at least a third of the distance between two levels.
    """
    top = grid.num_levels - 1
    scale = (sd * math.sqrt(3) / math.pi).clamp(min=1 / (3 * top))
    edges = (torch.arange(1, grid.num_levels).to(loc) - 0.5).unsqueeze(1) / top
    below = ((edges - loc) / scale).sigmoid()
    ends = torch.zeros_like(below[:1])
    return torch.cat([ends, below, ends + 1]).diff(dim=0)
