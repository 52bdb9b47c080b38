"""Grey levels: the values k / (num_levels − 1) of which discrete images consist."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.errors import BadInput, integer

MAX_LEVELS = 2**16
"""Of grey: images have 8 or 16 bits, and each level is a number for each pixel or a pass over it."""


class Grid(Constraint):
    """The values k / (num_levels − 1), k = 0, …, num_levels − 1: where discrete likelihoods of images live.

    Args:
        num_levels: 256 for bytes.

    Raises:
        BadInput: if there are fewer than two, or more than `MAX_LEVELS`.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int) -> None:
        self.num_levels = integer("num_levels", num_levels, low=2, high=MAX_LEVELS)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is on the grid, but for the rounding of its division."""
        k = value * (self.num_levels - 1)
        return ((k - k.round()).abs() < 0.01) & (k > -0.5) & (k < self.num_levels - 0.5)

    def require(self, x: Tensor, what: str, otherwise: str) -> None:
        """Refuse, for `what`, values off the grid: their levels are others, `otherwise` something else is to be done.

        Raises:
            BadInput: naming how many there are.
        """
        num_bad, top = int((~self.check(x)).sum()), self.num_levels - 1
        if num_bad:
            raise BadInput(
                f"{what} needs values k/{top}, k = 0, …, {top}, {num_bad} values of the data are none: "
                f"set data.num_levels to theirs, or {otherwise}"
            )

    def index(self, x: Tensor) -> Tensor:
        """k, int64, of values on the grid."""
        return (x * (self.num_levels - 1)).round().long()

    def dequantize(self, x: Tensor, u: Tensor) -> Tensor:
        """(k + u) / num_levels for u in [0, 1): a value of the open unit interval in the k-th of num_levels equal bins.

        For u ~ U[0, 1) a density's E log p of them is a lower bound on the log-probability of x, less log num_levels a
        dimension: Theis, van den Oord & Bethge (2016), A note on the evaluation of generative models,
        https://arxiv.org/abs/1511.01844, §3.1.
        """
        eps = torch.finfo(x.dtype).eps  # u may be 0, and 255 + u rounds to 256
        return ((self.index(x) + u) / self.num_levels).clamp(eps, 1 - eps)
