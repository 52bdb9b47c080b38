"""Grey levels of discrete images, k / (num_levels − 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.errors import BadInput, integer

MAX_LEVELS = 2**16
"""Images have 8 or 16 bits, and likelihoods compute a number for each level and pixel."""


class Grid(Constraint):
    """The values k / (num_levels − 1), k = 0, …, num_levels − 1: the support of discrete likelihoods of images.

    Args:
        num_levels: number of grey levels, 256 for bytes.

    Raises:
        BadInput: if there are fewer than 2, or more than `MAX_LEVELS`.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = integer("num_levels", num_levels, low=2, high=MAX_LEVELS)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is on the grid, up to rounding."""
        k = value * (self.num_levels - 1)
        return ((k - k.round()).abs() < 0.01) & (k > -0.5) & (k < self.num_levels - 0.5)

    def require(self, x: Tensor, what: str, otherwise: str) -> None:
        """Check that x is on the grid.

        Args:
            x: the data.
            what: option that needs them to be, for the message.
            otherwise: alternative to offer in the message.

        Raises:
            BadInput: if not, with the number of values off the grid.
        """
        num_bad, top = int((~self.check(x)).sum()), self.num_levels - 1
        if num_bad:
            raise BadInput(
                f"{what} needs values k/{top}, k = 0, …, {top}, and {num_bad} values are not on this grid: "
                f"set data.num_levels to the number of their levels, or {otherwise}"
            )

    def index(self, x: Tensor) -> Tensor:
        """Return the level k, int64, of values on the grid."""
        return (x * (self.num_levels - 1)).round().long()

    def dequantize(self, x: Tensor, u: Tensor) -> Tensor:
        """Return (k + u) / num_levels for u in [0, 1), a value in the k-th of num_levels equal bins of (0, 1).

        For u ~ U[0, 1), the mean log density of these values minus log num_levels per dimension is a lower bound on
        the log-probability of x: Theis, van den Oord & Bethge (2016), A note on the evaluation of generative models,
        https://arxiv.org/abs/1511.01844, §3.1.
        """
        eps = torch.finfo(x.dtype).eps  # u may be 0, and 255 + u rounds to 256
        return ((self.index(x) + u) / self.num_levels).clamp(eps, 1 - eps)
