"""The likelihood of grey values that assumes nothing of their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.likelihoods.checks import on_grid
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import level_counts


class Categorical(Likelihood):
    """p(x | z) = Π_d softmax(h_d + offset_d)[k_d], for discrete data on the grid x_d = k_d / (num_levels − 1).

    van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel recurrent neural networks,
    https://arxiv.org/abs/1601.06759, §2.3.

    Args:
        data_shape: shape of one datapoint.
        num_levels: of grey.
    """

    discrete = True

    def __init__(self, data_shape: Sequence[int], num_levels: int = 256) -> None:
        super().__init__(data_shape, Grid(num_levels).num_levels)
        self.grid = Grid(num_levels)
        self.register_start()

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Logits at the frequencies in x `[N, *data_shape]`."""
        self.offset.copy_(self._log_frequencies(x))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Logits -> p(x | z)."""
        levels: Any = _Levels(u.movedim(-1 - self.event_dim, -1))
        return levels.to_event(self.event_dim)

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Each dimension's frequencies, after adding one datapoint spread evenly over the levels."""
        return self.at(self._log_frequencies(x))

    def _log_frequencies(self, x: Tensor) -> Tensor:
        """Of the levels in x, float64, `[num_levels, *data_shape]`."""
        return ((level_counts(x, self.grid) + 1 / self.grid.num_levels) / (len(x) + 1)).log()

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary and the grid is not, else None.

        Raises:
            BadInput: if a value is not on the grid.
        """
        return on_grid("categorical", x, self.grid)


class _Levels(TorchDistribution):
    """Pyro's Categorical over the values of a grid instead of its indices; logits `[..., num_levels]`."""

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self._index = dist.Categorical(logits=logits, validate_args=validate_args)
        self._grid = Grid(logits.shape[-1])
        super().__init__(self._index.batch_shape, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        return self._index.logits

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Grid:
        return self._grid

    @property
    def mean(self) -> Tensor:
        levels = torch.arange(self._grid.num_levels).to(self.logits) / (self._grid.num_levels - 1)
        return self._index.probs @ levels

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _Levels:
        return _Levels(self.logits.expand(*batch_shape, self._grid.num_levels), self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._index.log_prob(self._grid.index(value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._index.sample(torch.Size(sample_shape)).to(self.logits) / (self._grid.num_levels - 1)
