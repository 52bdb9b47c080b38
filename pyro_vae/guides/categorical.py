"""The amortized guide for a discrete latent."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.guides.guide import Guide, LogJoint


class Categorical(Guide):
    """q(z = e_k | x) = softmax(logits(x))_k, one-hot; its draws are not reparameterized.

    Args:
        num_features: width of the encoder's output.
        latent_dim: K, the number of categories.

    Example:
        >>> import torch
        >>> Categorical(8, 3)(torch.zeros(5, 8)).sample().sum(-1)
        tensor([1., 1., 1., 1., 1.])
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.logits = nn.Linear(num_features, latent_dim)

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        return dist.OneHotCategorical(logits=self.logits(h))
