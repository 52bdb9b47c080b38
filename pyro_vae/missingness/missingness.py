"""The contract of missingness models, and how they start from the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.likelihoods.moments import moments, num_observed


class Missingness(nn.Module):
    """p(mask | x): it maps complete data to the probabilities that their entries are observed.

    Without it, missing entries are ignored, which is right if their being missing depends only on what is observed
    (missing at random). With it, a VAE maximizes log p(x_obs, mask), where the missing entries are latent: Ipsen,
    Mattei & Frellsen (2021), not-MIWAE: Deep generative modelling with missing not at random data,
    https://arxiv.org/abs/2006.12871. The data cannot tell whether the missingness model is right; it is an assumption.

    `VAE.build` calls `MyMissingness(data_shape)`. Define `logits`.

    Args:
        data_shape: shape of one datapoint.

    Example:
        >>> class Logistic(Missingness):
        ...     def logits(self, u):
        ...         return self.intercept - u
        >>> Logistic([3])(torch.zeros(5, 3)).event_shape
        torch.Size([3])
    """

    location: Tensor
    """Mean of the observed values of each entry in the training data, `[*data_shape]`."""
    unit: Tensor
    """Their scale, `[*data_shape]`."""
    intercept: nn.Parameter
    """Starts at the logit of the share of training datapoints in which an entry is observed, `[*data_shape]`."""

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.register_buffer("location", torch.zeros(*data_shape))
        self.register_buffer("unit", torch.ones(*data_shape))
        self.intercept = nn.Parameter(torch.zeros(*data_shape))

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Return the distribution of the mask, 1 where x `[..., *data_shape]` is observed."""
        logits = self.logits((x - self.location) / self.unit)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(self.event_dim)

    @abstractmethod
    def logits(self, u: Tensor) -> Tensor:
        """Return the logits that entries are observed, given u = (x - location) / unit: `[..., *data_shape]`, both."""

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Start from training data x `[N, *data_shape]`, in which NaN is missing."""
        data = moments(x)
        self.location.copy_(data.mean)
        self.unit.copy_(data.unit)
        observed = (torch.as_tensor(num_observed(x)) + 1) / (len(x) + 2)  # neither 0 nor 1
        self.intercept.copy_(observed.logit())
