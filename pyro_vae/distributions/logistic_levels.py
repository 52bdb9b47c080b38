"""Logistic variables rounded to the levels of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_vae.data.grid import Grid


class LogisticLevels(TorchDistribution):
    """P(k) = σ((k + ½ − μ) / s) − σ((k − ½ − μ) / s) in units of a bin; the first and last k get the tails.

    Example:
        >>> p = LogisticLevels(torch.tensor(0.5), torch.tensor(0.1), num_levels=3)
        >>> p.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp().sum()
        tensor(1.)
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, num_levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self._grid = loc, scale, Grid(num_levels)
        super().__init__(loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Grid:
        """The levels."""
        return self._grid

    @property
    def mean(self) -> Tensor:
        """E k / (num_levels − 1), with E k = Σ_{j ≥ 1} P(k ≥ j) added one threshold at a time."""
        top = self._grid.num_levels - 1
        total = torch.zeros_like(self.loc)
        for j in range(1, top + 1):
            total = total + ((self.loc - (j - 0.5) / top) / self.scale).sigmoid()
        return total / top

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> LogisticLevels:
        """Return the distribution with another batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return LogisticLevels(loc, scale, self._grid.num_levels, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability, by σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a − b)), which avoids cancellation."""
        top = self._grid.num_levels - 1
        k = self._grid.index(value)
        b = ((k + 0.5) / top - self.loc) / self.scale
        a = ((k - 0.5) / top - self.loc) / self.scale
        below = torch.where(k == top, 0.0, F.logsigmoid(b))
        above = torch.where(k == 0, 0.0, F.logsigmoid(-a))
        between = torch.where((k == 0) | (k == top), 0.0, (-torch.expm1(-1 / (top * self.scale))).log())
        return below + above + between

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw logistic variables, rounded to the grid."""
        top = self._grid.num_levels - 1
        with torch.no_grad():
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            x = self.loc + self.scale * u.logit()
            return (x * top).round().clamp(0, top) / top
