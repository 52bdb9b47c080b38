"""Missingness of an entry that depends on its own value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae.errors import one_of
from pyro_vae.missingness.missingness import Missingness


class SelfMasking(Missingness):
    """logit p(x_d is missing | x) = w_d u_d + b_d: the value of an entry decides whether it is missing.

    u_d is x_d, standardized by the observed training data. The logistic self-masking of Ipsen, Mattei & Frellsen
    (2021), https://arxiv.org/abs/2006.12871, §3. If you know the sign of w, set it: data say little about it.

    Args:
        data_shape: shape of one datapoint.
        missing: which values are missing more often: `high` (w > 0), `low` (w < 0), or `any` (the sign is learned).
    """

    def __init__(self, data_shape: Sequence[int], missing: str = "any") -> None:
        super().__init__(data_shape)
        self.missing = one_of("missing", missing, ("any", "high", "low"))
        self.raw_slope = nn.Parameter(torch.zeros(*data_shape))

    @property
    def slope(self) -> Tensor:
        """w, `[*data_shape]`."""
        if self.missing == "any":
            return self.raw_slope
        return F.softplus(self.raw_slope) * (1 if self.missing == "high" else -1)

    def logits(self, u: Tensor) -> Tensor:
        """Return the logits that entries are observed, given u: `[..., *data_shape]`, both."""
        return self.intercept - self.slope * u
