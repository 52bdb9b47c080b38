"""The contract of the families of a table's columns.

`Table` standardizes: y is (x − mean) / sd of a real column, x / geometric mean of a positive one, a bounded one
rescaled to (0, 1), and x otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Observed = Sequence[Tensor]
"""The observed values y of each of n columns, float64, none of them empty."""


class Family(nn.Module):
    """n columns of one kind. `at` maps unconstrained parameters to their distributions."""

    num_params: int = 1
    """Numbers that the decoder returns for each column."""
    filler: ClassVar[float] = 0.0
    """A number in the support."""

    @abstractmethod
    def start(self, y: Observed) -> Tensor:
        """Start from data; return the parameters u `[n, num_params]` that give their distribution."""

    @abstractmethod
    def at(self, u: Tensor) -> Any:
        """Return the distribution, of batch_shape `[..., n]`, at u `[..., n, num_params]`."""

    @abstractmethod
    def marginals(self, y: Observed) -> Any:
        """Return the distributions of data, of batch_shape `[n]`, float64."""


def each(y: Observed, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `function(values)` of each column, `[n]`."""
    return torch.stack([function(values) for values in y])
