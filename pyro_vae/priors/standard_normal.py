"""The standard normal prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.priors.prior import Posterior, Prior


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Args:
        latent_dim: D.
        **data: ignored.

    Example:
        >>> import torch
        >>> StandardNormal(2)().log_prob(torch.zeros(2))  # −log 2π
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, **data: Any) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z), with batch_shape `[]` and event_shape `[latent_dim]`."""
        return dist.Normal(self.loc, self.scale).to_event(1)
