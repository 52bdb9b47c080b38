"""The Gaussian guide with a full covariance."""

from __future__ import annotations

import math

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions.utils import vec_to_tril_matrix

from pyro_vae.distributions import CholeskyNormal
from pyro_vae.errors import positive
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.initialization import Heads


class FullCovariance(Guide):
    """q(z | x) = N(z; μ, L Lᵀ) with L = L_mask ⊙ L′ + diag(σ) and (μ, log σ, L′) from the encoder.

    Algorithm 2 of Kingma & Welling (2019), *An Introduction to Variational Autoencoders*,
    https://arxiv.org/abs/1906.02691. L′ starts at zero, so that training starts from the diagonal guide.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        gain: speed at which L′ learns, relative to μ and σ. Values below 1 dampen the noise of its D(D − 1)/2 gradients
            early in training; 1 suits posteriors that are known to be correlated.

    Raises:
        BadInput: if gain is not positive.

    Example:
        >>> import torch
        >>> q = FullCovariance(8, 3)(torch.zeros(5, 8))
        >>> q.scale_tril.shape
        torch.Size([5, 3, 3])
    """

    def __init__(self, num_features: int, latent_dim: int, gain: float = 1.0) -> None:
        super().__init__()
        self.loc_log_scale = Heads(num_features, latent_dim)
        # only the entries that the mask keeps: the D(D − 1)/2 below the diagonal
        self.off_diagonal: nn.Linear | None = None
        # Adam moves every weight by the learning rate, and thus a sum over features by num_features times as much:
        # unscaled, L′ turns into noise before μ and σ have learned anything, and latents collapse
        self.off_diagonal_gain = positive("gain", gain) / math.sqrt(num_features)
        if latent_dim > 1:
            self.off_diagonal = nn.Linear(num_features, latent_dim * (latent_dim - 1) // 2)
            nn.init.zeros_(self.off_diagonal.weight)
            nn.init.zeros_(self.off_diagonal.bias)

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        scale_tril = torch.diag_embed(log_scale.exp())
        if self.off_diagonal is not None:
            below = self.off_diagonal_gain * self.off_diagonal(h)
            scale_tril = scale_tril + vec_to_tril_matrix(below, diag=-1)
        return CholeskyNormal(loc, scale_tril=scale_tril)

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, the norms of the rows of L, each `[..., latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        variance = (2 * log_scale).exp()
        if self.off_diagonal is not None:
            rows, _ = torch.tril_indices(loc.shape[-1], loc.shape[-1], offset=-1, device=h.device)
            variance = variance.index_add(-1, rows, (self.off_diagonal_gain * self.off_diagonal(h)).square())
        return loc, variance.sqrt()
