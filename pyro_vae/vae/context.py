"""What a conditional VAE is given beside x: class labels, or covariates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data.covariates import values_for
from pyro_vae.data.schema import OF_CATEGORIES, Column
from pyro_vae.errors import BadInput
from pyro_vae.networks.table_input import TableInput
from pyro_vae.vae.inputs import as_labels


class Context(nn.Module):
    """Encodes y as the vector that encoder, decoder or prior are given."""

    width: int
    """Of the encoded y."""

    @abstractmethod
    def forward(self, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return y encoded, `[N, width]`.

        Raises:
            BadInput: if y is None.
        """

    @abstractmethod
    def for_prior(self, y: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return y as the prior is given it."""

    @abstractmethod
    def read(self, y: Any, n: int, like: Tensor) -> Tensor:
        """Return what a user gives as y for n datapoints as a tensor, on the device of `like`.

        Raises:
            BadInput: if y is missing, or does not fit the VAE.
        """

    @abstractmethod
    def example(self, like: Tensor) -> Tensor:
        """Return a valid y of one datapoint."""

    def initialize_from(self, y: Tensor) -> None:
        """Set starting values from training data y; does nothing by default."""


class ClassLabels(Context):
    """Class labels y `[N]`, integers, encoded one-hot.

    Args:
        num_classes: their number.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.width = num_classes

    def forward(self, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return labels y `[N]` one-hot, `[N, num_classes]`."""
        if y is None:
            raise BadInput(f"this VAE is conditional: give y, labels from 0 to {self.width - 1}")
        return nn.functional.one_hot(y, self.width).to(dtype)

    def for_prior(self, y: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return the labels y `[N]`."""
        return y

    def read(self, y: Any, n: int, like: Tensor) -> Tensor:
        """Return labels int64 `[n]`."""
        return as_labels(y, n, self.width, like.device)

    def example(self, like: Tensor) -> Tensor:
        """Return the label 0, `[1]`."""
        return like.new_zeros(1, dtype=torch.long)


class Covariates(Context):
    """Several columns y `[N, M]`: numbers are standardized by the training data, categories are encoded one-hot.

    The encoded y has the numbers first, then the categories of each column.

    Args:
        columns: their names and kinds; y holds the indices of categories.

    Example:
        >>> covariates = Covariates([Column("age", "real"), Column("sex", "categorical", "text", ("f", "m"))])
        >>> covariates(torch.tensor([[2.0, 1.0]]), torch.float32)
        tensor([[2., 0., 1.]])
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.names = [column.name for column in columns]
        self.is_number = [column.kind not in OF_CATEGORIES for column in columns]
        scales = ["linear" if is_number else "one_hot" for is_number in self.is_number]
        self.encoding = TableInput(scales, [len(column.categories) for column in columns])
        self.width = sum(self.is_number) + sum(len(column.categories) for column in columns)

    def forward(self, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return y `[N, M]` encoded, `[N, width]`."""
        encoded: Tensor = self.encoding(self._given(y).to(dtype))
        return encoded

    def for_prior(self, y: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return y encoded, `[N, width]`."""
        return self(y, dtype)

    def read(self, y: Any, n: int, like: Tensor) -> Tensor:
        """Return covariates `[n, M]`, of the dtype of `like`."""
        return values_for(self._given(y), self.columns, n).to(like)

    def example(self, like: Tensor) -> Tensor:
        """Return the mean of each number and the first category of the others, `[1, M]`."""
        return self.encoding.location.to(like).unsqueeze(0).clone()

    def _given(self, y: Any) -> Any:
        if y is None:
            raise BadInput(f"this VAE is conditional: give y, with columns {', '.join(self.names)}")
        return y

    @torch.no_grad()
    def initialize_from(self, y: Tensor) -> None:
        """Standardize numbers by their mean and standard deviation in y `[N, M]`."""
        numbers = torch.tensor(self.is_number, device=y.device)
        location, scale = y.double().mean(0), y.double().std(0, correction=0)
        usable = numbers & (scale > 0)
        self.encoding.set(torch.where(numbers, location, 0.0), torch.where(usable, scale, 1.0))


def context_of(num_classes: int | None, covariates: Sequence[Column]) -> Context | None:
    """Return what encodes labels of `num_classes` classes, or covariates; None without either."""
    if covariates:
        return Covariates(covariates)
    return None if num_classes is None else ClassLabels(num_classes)
