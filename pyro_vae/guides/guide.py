"""The contract of guides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

LogJoint = Callable[[Tensor], Tensor]
"""z `[S, N, latent_dim]` -> log p(x, z) in nats `[S, N]`, differentiable in z and in the model's parameters."""


class Guide(nn.Module):
    """The head of an amortized posterior q(z | x): it maps the encoder's features to a Pyro distribution.

    `VAE.build` calls `MyGuide(num_features, latent_dim)` for each stochastic layer, with the width of the encoder's
    output and the layer's dimension D.

    Example:
        A guide with a constant scale:

        >>> import pyro.distributions as dist
        >>> import torch
        >>> class Fixed(Guide):
        ...     def __init__(self, num_features, latent_dim):
        ...         super().__init__()
        ...         self.loc = nn.Linear(num_features, latent_dim)
        ...
        ...     def forward(self, h, log_joint=None):
        ...         return dist.Normal(self.loc(h), 0.1).to_event(1)
        >>> Fixed(8, 2)(torch.zeros(5, 8)).batch_shape
        torch.Size([5])
    """

    needs_log_joint: ClassVar[bool] = False
    """Whether the guide evaluates the model by `log_joint`, which then must not depend on the guide in turn."""

    @abstractmethod
    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x), with batch_shape `[...]` and event_shape `[latent_dim]`.

        Args:
            h: features `[..., num_features]`.
            log_joint: log p(x, z) as a function of z; None if there are several stochastic layers.
        """
