"""The contract of priors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

Posterior = Callable[[Tensor], TorchDistributionMixin]
"""x `[N, *data_shape]` -> q(z | x)."""


class Prior(nn.Module):
    """A prior p(z), or p(z | y), of the top stochastic layer.

    `VAE.build` calls `MyPrior(latent_dim, data_shape=…, num_classes=…)`, with `num_categories` of each column if y are
    covariates; let `**data` swallow the arguments that you do not need.

    Example:
        A prior with heavy tails and a learned scale:

        >>> import pyro.distributions as dist
        >>> import torch
        >>> class Laplace(Prior):
        ...     def __init__(self, latent_dim, **data):
        ...         super().__init__()
        ...         self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        ...
        ...     def forward(self, y=None, posterior=None):
        ...         return dist.Laplace(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
        >>> Laplace(2)().event_shape
        torch.Size([2])
    """

    conditional: ClassVar[bool] = False
    """Whether p(z | y) depends on y."""

    @abstractmethod
    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z | y), with event_shape `[latent_dim]`.

        The batch_shape is `[]`, or `[N]` if the prior is `conditional`.

        Args:
            y: labels `[N]`, or, if the prior is `conditional`, encoded covariates `[N, width]`: standardized
                numbers, then one-hot categories.
            posterior: the VAE's q(z | x); None if it depends on more than x, or has several stochastic layers.
        """

    def initialize_from(self, x: Tensor) -> None:
        """Set starting values from training data x `[N, *data_shape]`; does nothing by default."""
