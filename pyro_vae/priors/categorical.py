"""A discrete prior: with a linear decoder a Gaussian mixture, the model that EM was made for."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.priors.prior import Posterior, Prior


class Categorical(Prior):
    """p(z = e_k) = π_k, one-hot, with learned π: `latent_dim` is the number of categories.

    Args:
        latent_dim: K.
        **data: what is known of the data; not needed.
    """

    def __init__(self, latent_dim: int, **data: Any) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """p(z), batch_shape `[]`, event_shape `[latent_dim]`, one-hot."""
        return dist.OneHotCategorical(logits=self.logits)
