"""A learned mixture of Gaussians as the prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.priors.prior import Posterior, Prior


class Mixture(Prior):
    """p(z) = Σ_c π_c N(z; μ_c, diag σ_c²) with learned π, μ and σ.

    Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture VAEs,
    https://arxiv.org/abs/1611.02648, with the component summed out.

    Args:
        latent_dim: D.
        num_components: C.
        **data: ignored.

    Example:
        >>> import torch
        >>> Mixture(2, num_components=5)().log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    def __init__(self, latent_dim: int, num_components: int = 10, **data: Any) -> None:
        super().__init__()
        positive_int("num_components", num_components, MAX_WIDTH)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z), with batch_shape `[]` and event_shape `[latent_dim]`."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)
