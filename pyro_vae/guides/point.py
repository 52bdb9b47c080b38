"""The guide of a plain autoencoder."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.guides.guide import Guide, LogJoint


class Point(Guide):
    """q(z | x) = δ(z − μ(x)). It has no density, hence no ELBO, only the objective of an autoencoder.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.

    Example:
        >>> import torch
        >>> q = Point(8, 3)(torch.zeros(5, 8))
        >>> bool((q.sample() == q.mean).all())
        True
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(num_features, latent_dim)

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        return dist.Delta(self.loc(h), event_dim=1)
