"""The likelihood of grey values that makes no assumption about their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.data.units import Units, units_of
from pyro_vae.likelihoods.checks import on_grid
from pyro_vae.likelihoods.levels import Levels, level_marginals
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import level_counts, num_observed


class Categorical(Likelihood):
    """p(x | z) = Π_d softmax(h_d + offset_d)[k_d], for discrete data on the grid x_d = k_d / (num_levels − 1).

    van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel recurrent neural networks,
    https://arxiv.org/abs/1601.06759, §2.3.

    Args:
        data_shape: shape of one datapoint.
        num_levels: number of grey levels.

    Example:
        >>> import torch
        >>> Categorical([6], num_levels=17)(torch.zeros(5, 17, 6)).sample().shape
        torch.Size([5, 6])
    """

    discrete = True
    integers = "levels"

    def __init__(self, data_shape: Sequence[int], num_levels: int = 256) -> None:
        super().__init__(data_shape, Grid(num_levels).num_levels)
        self.grid = Grid(num_levels)

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the logits to the frequencies in x `[N, *data_shape]`, with one more datapoint spread over the levels."""
        frequencies = (level_counts(x, self.grid) + 1 / self.grid.num_levels) / (num_observed(x) + 1)
        self.offset.copy_(frequencies.log())

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for logits u."""
        levels: Any = Levels(u.movedim(-1 - self.event_dim, -1))
        return levels.to_event(self.event_dim)

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return each dimension's smoothed frequencies."""
        return level_marginals(x, self.grid)

    @property
    def units(self) -> Units:
        """What integers in users' arrays are divided by: the largest level."""
        return units_of(self.integers, self.grid.num_levels)

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary and the grid is not, else None.

        Raises:
            BadInput: if a value is not on the grid.
        """
        return on_grid("categorical", x, self.grid)
