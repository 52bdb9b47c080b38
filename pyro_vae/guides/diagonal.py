"""The Gaussian guide with independent latents."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.initialization import Heads


class Diagonal(Guide):
    """q(z | x) = N(z; μ(x), diag σ(x)²), the guide of Kingma & Welling (2014), https://arxiv.org/abs/1312.6114.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.

    Example:
        >>> import torch
        >>> q = Diagonal(8, 3)(torch.zeros(5, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc_log_scale = Heads(num_features, latent_dim)

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)
