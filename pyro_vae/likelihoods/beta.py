"""The likelihood of proportions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput
from pyro_vae.likelihoods.in_double import BetaInDouble
from pyro_vae.likelihoods.softplus import softplus_start


class Beta(nn.Module):
    """p(x | z) = Π_d Beta(x_d; α_d(z), β_d(z)), a density for continuous data in the open interval (0, 1).

    At h = 0 both concentrations are `init_concentration`; 1 is the uniform density.

    Args:
        data_shape: shape of one datapoint.
        init_concentration: α and β at h = 0.
        min_concentration: lower bound of both: towards 0 the density's poles at 0 and 1 take all of its mass.
    """

    discrete = False
    raw_offset: Tensor

    def __init__(
        self, data_shape: Sequence[int], init_concentration: float = 1.0, min_concentration: float = 0.01
    ) -> None:
        super().__init__()
        self.register_buffer("raw_offset", softplus_start("concentration", init_concentration, min_concentration))
        self.min_concentration = min_concentration
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([2, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Parameters `[..., 2, *data_shape]`, of α and of β -> p(x | z), event_shape `data_shape`."""
        alpha, beta = (self.min_concentration + F.softplus(h + self.raw_offset)).unbind(-1 - self.event_dim)
        return BetaInDouble(alpha, beta).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def check(self, x: Tensor) -> str | None:
        """None.

        Raises:
            BadInput: if a value lies outside (0, 1).
        """
        low, high = x.min().item(), x.max().item()
        if low <= 0 or high >= 1:
            raise BadInput(
                f"likelihood=beta needs values in (0, 1) without the ends, the data span [{low:.4g}, {high:.4g}]: "
                "take data.dequantize=true (with data.binarize=none) for grey values, rescale them, or take "
                "likelihood=continuous_bernoulli"
            )
        return None
