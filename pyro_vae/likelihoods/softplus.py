"""Positive parameters from real numbers: lower bound + unit · softplus(u)."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, positive


def inverse_softplus(y: Tensor) -> Tensor:
    """Return x with log(1 + eˣ) = y; y is clamped to at least 1e-9."""
    y = y.clamp_min(1e-9)
    return y + torch.log(-torch.expm1(-y))


class Start:
    """The options init_NAME and min_NAME of a likelihood's positive parameter.

    Numbers are in the data's units, or multiples of the data's value if `relative`. With None, the start comes from the
    data, and the bound is a hundredth of the start or of the data's value.

    Args:
        name: NAME.
        init: a positive number, or None.
        low: a positive number, or None.
        bounded: whether the start must exceed the bound: a fixed parameter has no bound.
        share: start at this share of the data's value.
        relative: whether numbers are multiples of the data's value.

    Raises:
        BadInput: if one of them is not a positive number, or init does not exceed min.
    """

    def __init__(
        self,
        name: str,
        init: object,
        low: object,
        *,
        bounded: bool = True,
        share: float = 1.0,
        relative: bool = False,
    ) -> None:
        self.init = None if init is None else positive(f"init_{name}", init)
        self.low = None if low is None else positive(f"min_{name}", low)
        self.share, self.relative = share, relative
        if bounded and self.init is not None and self.low is not None and self.init <= self.low:
            raise BadInput(f"likelihood.init_{name}={init} must exceed min_{name}={low}")

    def bound(self, of_data: Tensor) -> Tensor:
        """Return the lower bound for data with the value `of_data`, in its shape."""
        return 0.01 * self._init(of_data) if self.low is None else self.in_units(self.low, of_data)

    def value(self, of_data: Tensor) -> Tensor:
        """Return the start, above the bound, for data with the value `of_data`, in its shape."""
        if self.init is not None:
            return self._init(of_data)
        return (self.share * of_data).maximum(2 * self.bound(of_data))

    def raw(self, of_data: Tensor, unit: Tensor) -> Tensor:
        """Return the u at which bound + unit · softplus(u) is the start."""
        return inverse_softplus((self.value(of_data) - self.bound(of_data)) / unit)

    def _init(self, of_data: Tensor) -> Tensor:
        return of_data if self.init is None else self.in_units(self.init, of_data)

    def in_units(self, number: float, of_data: Tensor) -> Tensor:
        """Return `init` or `low` in the data's units, in the shape of `of_data`."""
        return number * of_data if self.relative else torch.full_like(of_data, number)
