"""Inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from torch import Tensor, nn

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.autoregressive import autoregressive_network
from pyro_vae.networks.initialization import Heads


class InverseAutoregressive(Guide):
    """z_0 ~ N(μ(x), diag σ(x)²), z_t = m_t + s_t ⊙ z_{t−1} with (m_t, s_t)_d a network of z_{t−1,<d} and x.

    Kingma et al. (2016), https://arxiv.org/abs/1606.04934, eq. 10. The order of the dimensions is reversed from one
    transform to the next. It starts as the diagonal guide. The density of its last draw takes one pass, that of any
    other value D passes; the mean is not known.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        num_transforms: T, the number of transforms.
        hidden: widths of each transform's network, at least D.

    Raises:
        BadInput: if an option is out of range.

    Example:
        >>> import torch
        >>> q = InverseAutoregressive(8, 3, hidden=[16])(torch.zeros(5, 8))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    transforms: Any

    def __init__(
        self, num_features: int, latent_dim: int, num_transforms: int = 2, hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        self.loc_log_scale = Heads(num_features, latent_dim)
        self.transforms = nn.ModuleList(
            ConditionalAffineAutoregressive(
                autoregressive_network(num_features, latent_dim, hidden, reverse=t % 2 == 1)
            )
            for t in range(positive_int("num_transforms", num_transforms, MAX_WIDTH))
        )

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        base = dist.Normal(loc, log_scale.exp()).to_event(1)
        return AutoregressiveFlow.of(h, self, base, [transform.condition(h) for transform in self.transforms])
