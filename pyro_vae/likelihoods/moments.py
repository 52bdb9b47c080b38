"""Location and spread of training data, in double precision, computed in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.data.grid import Grid

PART = 2**20
"""Number of values that are converted to double precision at once."""


@dataclass(frozen=True)
class Moments:
    """Moments of the observed values of each dimension of the data, float64, `[*data_shape]`.

    Attributes:
        mean: the mean.
        sd: the standard deviation; exactly 0 where all values are equal.
        reach: the largest distance from the mean.
    """

    mean: Tensor
    sd: Tensor
    reach: Tensor

    @property
    def whole(self) -> Tensor:
        """One standard deviation of all data, the root of the mean variance: `[]`, positive."""
        return root_mean_square(self.sd)

    @property
    def unit(self) -> Tensor:
        """A positive scale of each dimension, `[*data_shape]`: all values lie within ten scales of the mean.

        This is the standard deviation, unless a few values are far off, as in pixels that are rarely set. Where all
        values are equal, it is the standard deviation of all data.
        """
        return torch.where(self.sd > 0, self.sd.maximum(self.reach / 10), self.whole)

    @property
    def unlike(self) -> bool:
        """Whether one scale does not suit all dimensions.

        That is, if half of the non-constant dimensions vary by less than a tenth of the data's standard deviation.
        """
        sd = self.sd[self.sd > 0]
        return bool(len(sd) and sd.median() <= 0.1 * self.whole)


def moments(x: Tensor) -> Moments:
    """Compute the moments of x `[N, *data_shape]`, whose NaN are missing; each dimension has an observed value."""
    n = num_observed(x)
    # relative to `low`: equal values have no rounding errors
    low, high = x.nan_to_num(torch.inf).amin(0).double(), x.nan_to_num(-torch.inf).amax(0).double()
    mean = low + sum((part - low).nan_to_num(0.0).sum(0) for part in parts(x)) / n
    variance = sum((part - mean).square().nan_to_num(0.0).sum(0) for part in parts(x)) / n
    sd = torch.as_tensor(variance).sqrt().where(high > low, 0.0)
    return Moments(mean, sd, (high - mean).maximum(mean - low))


def num_observed(x: Tensor) -> int | Tensor:
    """Return how many values of each dimension of x `[N, *data_shape]` are not NaN: N, or float64 `[*data_shape]`."""
    missing = x.isnan()
    return (~missing).sum(0).double() if missing.any() else len(x)


def parts(x: Tensor) -> Iterator[Tensor]:
    """Yield x `[N, *data_shape]` in double precision, a few datapoints at a time."""
    for part in x.split(max(1, PART // max(1, x[0].numel()))):
        yield part.double()


def level_counts(x: Tensor, grid: Grid) -> Tensor:
    """Count the grid's levels among observed values of x `[N, *data_shape]`: float64, `[num_levels, *data_shape]`."""
    L, D = grid.num_levels, x[0].numel()
    counts = torch.zeros(L * D, dtype=torch.float64, device=x.device)
    for part in parts(x):
        k = grid.index(part).clamp(0, L - 1).flatten(1)
        place = (k * D + torch.arange(D, device=x.device)).flatten()
        counts += torch.bincount(place[~part.isnan().flatten()], minlength=L * D)
    return counts.reshape(L, *x.shape[1:])


def root_mean_square(scales: Tensor) -> Tensor:
    """Return √(mean of the squares), `[]`; 1 if all are 0."""
    whole = scales.square().mean().sqrt()
    return torch.where(whole > 0, whole, 1.0)
