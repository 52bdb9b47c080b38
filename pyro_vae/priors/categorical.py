"""The discrete prior, which makes a VAE with a linear decoder a Gaussian mixture."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.priors.prior import Posterior, Prior


class Categorical(Prior):
    """p(z = e_k) = π_k, one-hot, with learned π.

    Args:
        latent_dim: K, the number of categories.
        **data: ignored.

    Example:
        >>> import torch
        >>> Categorical(3)().sample().sum()
        tensor(1.)
    """

    def __init__(self, latent_dim: int, **data: Any) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z), with batch_shape `[]` and event_shape `[latent_dim]`."""
        return dist.OneHotCategorical(logits=self.logits)
