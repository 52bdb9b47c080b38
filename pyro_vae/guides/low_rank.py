"""The Gaussian guide with a few directions of correlation."""

from __future__ import annotations

import math

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.distributions import LowRankNormal
from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.initialization import Heads


class LowRank(Guide):
    """q(z | x) = N(z; μ, W Wᵀ + diag σ²), W `[D, rank]`, with (μ, log σ, W) from the encoder.

    Rezende, Mohamed & Wierstra (2014), Stochastic backpropagation and approximate inference in deep generative
    models, https://arxiv.org/abs/1401.4082, §4.3, there with a rank-one precision; as a covariance Ong, Nott & Smith
    (2018), Gaussian variational approximation with a factor covariance structure, https://arxiv.org/abs/1701.03208.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        rank: columns of W; D − 1 suffice for any covariance.

    Raises:
        BadInput: if rank is not a positive integer.

    Example:
        >>> import torch
        >>> q = LowRank(8, 3, rank=2)(torch.zeros(5, 8))
        >>> q.covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    def __init__(self, num_features: int, latent_dim: int, rank: int = 4) -> None:
        super().__init__()
        positive_int("rank", rank, MAX_WIDTH)
        self.loc_log_scale = Heads(num_features, latent_dim)
        # starts near the diagonal guide, but not at W = 0, where W Wᵀ has no gradient
        self.factor = nn.Sequential(nn.Linear(num_features, latent_dim * rank), nn.Unflatten(-1, (latent_dim, rank)))
        self.factor_gain = 1 / math.sqrt(num_features)  # as in FullCovariance

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        return LowRankNormal(loc, self.factor_gain * self.factor(h), (2 * log_scale).exp())

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each `[..., latent_dim]`, without the distribution's Cholesky factor."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        return loc, ((self.factor_gain * self.factor(h)).square().sum(-1) + (2 * log_scale).exp()).sqrt()
