"""A guide with several modes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.guides.log_joint import LogJoint


class Mixture(nn.Module):
    """q(z | x) = Σ_c π_c N(z; μ_c, diag σ_c²) with (π, μ, log σ) from the encoder.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        num_components: C; their random weights set them apart at the start.

    Raises:
        BadInput: if num_components is no positive whole number.
    """

    def __init__(self, num_features: int, latent_dim: int, num_components: int = 3) -> None:
        super().__init__()
        C = positive_int("guide.num_components", num_components, MAX_WIDTH)
        self.logits = nn.Linear(num_features, C)
        self.loc_log_scale = nn.Sequential(
            nn.Linear(num_features, C * 2 * latent_dim), nn.Unflatten(-1, (C, 2 * latent_dim))
        )

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Features `[..., num_features]` -> q(z | x), batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        components = dist.Normal(loc, log_scale.exp()).to_event(1)
        return MixtureOfNormals(dist.Categorical(logits=self.logits(h)), components)


class MixtureOfNormals(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture of factorized normals whose draws are differentiable, by implicit reparameterization.

    z solves F(z; θ) = u for uniform u, where F_d is the distribution function of z_d given z_1, …, z_{d−1}; hence
    dz/dθ = −(∂F/∂z)⁻¹ ∂F/∂θ: Graves (2016), Stochastic backpropagation through mixture density distributions,
    https://arxiv.org/abs/1607.05690; Figurnov, Mohamed & Mnih (2018), https://arxiv.org/abs/1805.08498, §3.

    Pyro's `MixtureOfDiagNormals` mixes up datapoints where it is given a sample_shape, and its gradient is NaN in
    single precision from some 50 dimensions on.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparameterized draw `[*sample_shape, *batch_shape, D]`."""
        z: Tensor = self.sample(torch.Size(sample_shape))
        if not torch.is_grad_enabled():
            return z
        normal = self.component_distribution.base_dist
        x = z.unsqueeze(-2)
        log_density, cdf = normal.log_prob(x), normal.cdf(x)  # [..., C, D]
        before = pad(log_density.cumsum(-1)[..., :-1], (1, 0))
        weights = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)  # of c, given z_1 … z_{d−1}
        F = (weights * cdf).sum(-2)
        with torch.no_grad():
            # ∂F_d/∂z_j is the conditional density at j = d, zero for j > d, and acts through the weights for j < d
            score = (normal.loc - x) / normal.scale.square()
            below = (weights * (cdf - F.unsqueeze(-2))).mT @ score
            J = below.tril(-1) + torch.diag_embed((weights * log_density.exp()).sum(-2))
        return z - torch.linalg.solve_triangular(J, (F - F.detach()).unsqueeze(-1), upper=False).squeeze(-1)
