"""The entries of a row whose columns have distributions of different families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pyro.distributions import Categorical, Independent, TorchDistribution, constraints
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Columns of one family.

    Attributes:
        places: their places in a row, `[n]`.
        distribution: batch_shape `[..., n]`, event_shape `[]`.
        filler: a number in its support.
    """

    places: Tensor
    distribution: Any
    filler: float


class Columns(TorchDistribution):
    """Independent entries `[..., P]`; where the value is NaN, the log-probability is 0: nothing was observed.

    An entry x is location + scale · y, where y has the distribution of its group.

    Args:
        groups: each column belongs to one of them.
        location: `[P]`.
        scale: `[P]`, positive.

    Example:
        >>> import pyro.distributions as dist
        >>> group = Group(torch.tensor([0, 1]), dist.Normal(torch.zeros(2), 1.0), filler=0.0)
        >>> p = Columns([group], location=torch.zeros(2), scale=torch.ones(2))
        >>> p.log_prob(torch.tensor([0.0, torch.nan]))
        tensor([-0.9189,  0.0000])
    """

    arg_constraints: ClassVar = {}

    def __init__(self, groups: Sequence[Group], location: Tensor, scale: Tensor) -> None:
        self.groups, self.location, self.scale = groups, location, scale
        self._order = torch.cat([group.places for group in groups]).argsort()
        leading = groups[0].distribution.batch_shape[:-1]
        super().__init__(torch.Size([*leading, len(location)]), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """Real numbers; each column has its own support within them."""
        return constraints.real

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density or log-probability of each entry, in the units of x: nats, `[..., P]`."""
        observed = ~value.isnan()
        y = (value - self.location) / self.scale
        parts = []
        for group in self.groups:
            places, distribution, filler = group.places, group.distribution, group.filler
            mine, own = observed.index_select(-1, places), y.index_select(-1, places)
            if distribution.support is constraints.unit_interval:  # rounding may put y on a bound that x is not on
                own = own.clamp(torch.finfo(y.dtype).tiny, 1 - torch.finfo(y.dtype).eps / 2)
            parts.append(distribution.log_prob(torch.where(mine, own, filler)))
        log_p = self._in_order(parts) - self.scale.log()
        return torch.where(observed, log_p, 0.0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw entries."""
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            return self._in_units_of_x([group.distribution.sample(shape) for group in self.groups])

    @property
    def mean(self) -> Tensor:
        """The mean of each entry; of categories, the index of the most probable one."""
        return self._in_units_of_x([_center(group.distribution) for group in self.groups])

    def mean_of_mixture(self, weights: Tensor) -> Tensor:
        """Return the mean over the first dimension, with weights `[K, ...]`: `[..., P]`.

        Of categories, it is the index of the most probable one in the mixture.
        """
        weights = weights.unsqueeze(-1)
        return self._in_units_of_x([_center(group.distribution, weights) for group in self.groups])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Columns:
        """Return the distribution with another batch shape, which ends in P."""
        leading = list(batch_shape)[:-1]
        groups = [replace(g, distribution=g.distribution.expand([*leading, len(g.places)])) for g in self.groups]
        return Columns(groups, self.location, self.scale)

    def _in_units_of_x(self, parts: list[Tensor]) -> Tensor:
        return self.location + self.scale * self._in_order(parts)

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([part.to(self.scale.dtype) for part in parts], -1).index_select(-1, self._order)


class Row(Independent):
    """`Row(columns, 1)`: a row of a table, event_shape `[P]`, whose log-probability is the sum of its `Columns`.

    `row.base_dist.mask(observed).to_event(1)` leaves out entries by a mask `[..., P]` as well.

    Example:
        >>> import pyro.distributions as dist
        >>> group = Group(torch.tensor([0, 1]), dist.Normal(torch.zeros(2), 1.0), filler=0.0)
        >>> row = Row(Columns([group], torch.zeros(2), torch.ones(2)), 1)
        >>> row.log_prob(torch.zeros(2)), row.log_prob_by_column(torch.zeros(2))
        (tensor(-1.8379), tensor([-0.9189, -0.9189]))
    """

    def log_prob_by_column(self, value: Tensor) -> Tensor:
        """Return what each column adds to log p(value): nats, `[..., P]`, 0 where the value is NaN."""
        log_prob: Tensor = self.base_dist.log_prob(value)
        return log_prob


def _center(distribution: Any, weights: Tensor | None = None) -> Tensor:
    """Return the mean of a distribution, or of the mixture with weights `[K, ...]`; of categories, the mode."""
    center: Tensor = distribution.probs if isinstance(distribution, Categorical) else distribution.mean
    if weights is not None:
        center = (weights.reshape(weights.shape + (1,) * (center.dim() - weights.dim())) * center).sum(0)
    return center.argmax(-1) if isinstance(distribution, Categorical) else center
