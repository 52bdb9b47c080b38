"""The likelihood of counts whose variance is their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.likelihoods.checks import are_counts
from pyro_vae.likelihoods.in_double import PoissonInDouble

MIN_RATE = 1e-6
"""With a rate of 0, to which softplus rounds, a count of 1 would be impossible, and its gradient NaN."""


class Poisson(nn.Module):
    """p(x | z) = Π_d Poisson(x_d; softplus(h_d)), for counts 0, 1, 2, ….

    Args:
        data_shape: shape of one datapoint.
    """

    discrete = True

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([1, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Rates before their softplus `[..., 1, *data_shape]` -> p(x | z), event_shape `data_shape`."""
        rate = MIN_RATE + F.softplus(h.squeeze(-1 - self.event_dim))
        return PoissonInDouble(rate).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, else None.

        Raises:
            BadInput: if a value is no count.
        """
        return are_counts("poisson", x)
