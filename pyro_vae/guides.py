"""Guides q(z | x): modules that map the encoder's features to a Pyro distribution over the latent."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, register_kl
from torch.distributions.utils import vec_to_tril_matrix


class Diagonal(nn.Module):
    """q(z | x) = N(z; μ(x), diag σ(x)²), the guide of Kingma & Welling (2014).

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc_log_scale = nn.Linear(num_features, 2 * latent_dim)

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Features `[..., num_features]` -> q(z | x), batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class FullCovariance(nn.Module):
    """q(z | x) = N(z; μ, L Lᵀ) with L = L_mask ⊙ L′ + diag(σ) and (μ, log σ, L′) from the encoder.

    Algorithm 2 of Kingma & Welling (2019), *An Introduction to Variational Autoencoders*,
    https://arxiv.org/abs/1906.02691. L′ starts at zero, so that training starts from the diagonal guide.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
    """

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc_log_scale = nn.Linear(num_features, 2 * latent_dim)
        # only the entries that the mask keeps: the D(D − 1)/2 below the diagonal
        self.off_diagonal: nn.Linear | None = None
        # Adam moves every weight by the learning rate, so a sum over features by that many times as much:
        # unscaled, L′ grows into noise before μ and σ have learnt anything, and latents collapse
        self.off_diagonal_gain = 1 / math.sqrt(num_features)
        if latent_dim > 1:
            self.off_diagonal = nn.Linear(num_features, latent_dim * (latent_dim - 1) // 2)
            nn.init.zeros_(self.off_diagonal.weight)
            nn.init.zeros_(self.off_diagonal.bias)

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Features `[..., num_features]` -> q(z | x), batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        scale_tril = torch.diag_embed(log_scale.exp())
        if self.off_diagonal is not None:
            below = self.off_diagonal_gain * self.off_diagonal(h)
            scale_tril = scale_tril + vec_to_tril_matrix(below, diag=-1)
        return CholeskyNormal(loc, scale_tril=scale_tril)


class CholeskyNormal(dist.MultivariateNormal):
    """N(μ, L Lᵀ) whose density of its own last draw z = μ + Lε costs no triangular solve.

    log q(z) = Σ_i (log N(ε_i; 0, 1) − log L_ii): Kingma & Welling (2019), algorithm 2. For any other value
    ε = L⁻¹(z − μ) is solved for. The value, and its gradient for the parameters, are those of `MultivariateNormal`.
    """

    _last_draw: tuple[Tensor, Tensor, int] | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparameterized draw `[*sample_shape, *batch_shape, D]`; its noise is kept for `log_prob`."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        z: Tensor = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self._last_draw = (z, noise, z._version)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value) in nats, `[..., *batch_shape]`."""
        if self._validate_args:
            self._validate_sample(value)
        scale_tril: Tensor = self._unbroadcasted_scale_tril
        noise = self._noise_of(value)
        if noise is None:
            difference = (value - self.loc).unsqueeze(-1)
            noise = torch.linalg.solve_triangular(scale_tril, difference, upper=False).squeeze(-1)
        log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).log()
        return -(0.5 * noise.square() + 0.5 * math.log(2 * math.pi) + log_diagonal).sum(-1)

    def _noise_of(self, value: Tensor) -> Tensor | None:
        """The noise that `value` was made of, if it is the last draw, unchanged."""
        if self._last_draw is None:
            return None
        z, noise, version = self._last_draw
        # a draw without a graph is a constant to the gradient: then ε moves with the parameters
        differentiable = z.requires_grad or not (self.loc.requires_grad or self._unbroadcasted_scale_tril.requires_grad)
        return noise if value is z and value._version == version and differentiable else None


@register_kl(MultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_mvn_independent_normal(p: MultivariateNormal, q: Any) -> Tensor:
    """KL(N(μ, L Lᵀ) ‖ N(m, diag s²)) in closed form, which neither torch nor Pyro has."""
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    m, s = q.base_dist.loc, q.base_dist.scale
    L = p._unbroadcasted_scale_tril
    trace = (L / s.unsqueeze(-1)).square().sum((-2, -1))
    mahalanobis = ((p.loc - m) / s).square().sum(-1)
    log_det_ratio = (s.log() - L.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    return 0.5 * (trace + mahalanobis - p.event_shape[0]) + log_det_ratio
