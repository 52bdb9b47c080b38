"""Mixtures of diagonal normals."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import pad


class MixtureOfNormals(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture of factorized normals whose draws are differentiable, by implicit reparameterization.

    z solves F(z; θ) = u for uniform u, where F_d is the distribution function of z_d given z_1, …, z_{d−1}; hence
    dz/dθ = −(∂F/∂z)⁻¹ ∂F/∂θ: Graves (2016), Stochastic backpropagation through mixture density distributions,
    https://arxiv.org/abs/1607.05690; Figurnov, Mohamed & Mnih (2018), https://arxiv.org/abs/1805.08498, §3.

    Pyro's `MixtureOfDiagNormals` mixes up datapoints if it is given a sample_shape, and its gradient is NaN in single
    precision from about 50 dimensions on.

    Example:
        >>> import pyro.distributions as dist
        >>> loc = torch.zeros(2, 3, requires_grad=True)  # two components in three dimensions
        >>> components = dist.Normal(loc, 1.0).to_event(1)
        >>> MixtureOfNormals(dist.Categorical(logits=torch.zeros(2)), components).rsample().requires_grad
        True
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw `[*sample_shape, *batch_shape, D]`, reparameterized."""
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
