"""The likelihood of counts whose variance is their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.distributions import PoissonInDouble
from pyro_vae.likelihoods.checks import are_counts
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import Moments, moments, num_observed
from pyro_vae.likelihoods.softplus import inverse_softplus

MIN_RATE = 1e-6
"""Lower bound of rates: with 0, to which softplus may round, a count of 1 has probability 0 and a NaN gradient."""


class Counts(Likelihood):
    """A likelihood of counts 0, 1, 2, … by their mean, unit · softplus(h + offset).

    The unit is the data's standard deviation, the root of the mean variance, but at least 1, so that means of 700 are
    learned as fast as means of 1.
    """

    discrete = True
    integers = "counts"
    unbounded = True
    unit: Tensor

    def start_without_data(self) -> dict[str, Tensor]:
        """Return the buffers for a unit of 1."""
        return {**super().start_without_data(), "unit": torch.ones(())}

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the means to those of x `[N, *data_shape]`."""
        data = moments(x)
        unit = data.whole.clamp(min=1)
        self.unit.copy_(unit)
        self.offset.copy_(inverse_softplus(mean_count(data, num_observed(x)) / unit).unsqueeze(0))

    def mean(self, u: Tensor) -> Tensor:
        """Return the means of the counts `[..., *data_shape]` for parameters u `[..., 1, *data_shape]`."""
        return MIN_RATE + self.unit * F.softplus(u.squeeze(-1 - self.event_dim))


def mean_count(data: Moments, num_data: int | Tensor) -> Tensor:
    """Return the means after adding half a count, since unseen counts are rare rather than impossible."""
    return data.mean.clamp(min=0) + 0.5 / num_data


class Poisson(Counts):
    """p(x | z) = Π_d Poisson(x_d; unit · softplus(h_d + offset_d)), for counts 0, 1, 2, ….

    Args:
        data_shape: shape of one datapoint.

    Example:
        >>> import torch
        >>> Poisson([6])(torch.zeros(5, 1, 6)).sample().shape
        torch.Size([5, 6])
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)
        self.register_start()

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for rates before their softplus."""
        return PoissonInDouble(self.mean(u)).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return Poisson distributions with each dimension's mean."""
        rate = mean_count(moments(x), num_observed(x))
        return PoissonInDouble(rate).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary, else None.

        Raises:
            BadInput: if a value is not a count.
        """
        return are_counts("poisson", x)
