"""The guide with several modes."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.distributions import MixtureOfNormals
from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.guides.guide import Guide, LogJoint


class Mixture(Guide):
    """q(z | x) = Σ_c π_c N(z; μ_c, diag σ_c²) with (π, μ, log σ) from the encoder.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        num_components: C; the components differ at the start because their weights are random.

    Raises:
        BadInput: if num_components is not a positive integer.

    Example:
        >>> import torch
        >>> q = Mixture(8, 3, num_components=2)(torch.zeros(5, 8))
        >>> q.rsample().requires_grad
        True
    """

    def __init__(self, num_features: int, latent_dim: int, num_components: int = 3) -> None:
        super().__init__()
        C = positive_int("num_components", num_components, MAX_WIDTH)
        self.logits = nn.Linear(num_features, C)
        self.loc_log_scale = nn.Sequential(
            nn.Linear(num_features, C * 2 * latent_dim), nn.Unflatten(-1, (C, 2 * latent_dim))
        )

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        components = dist.Normal(loc, log_scale.exp()).to_event(1)
        return MixtureOfNormals(dist.Categorical(logits=self.logits(h)), components)
