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
from pyro_vae.likelihoods.moments import Moments, moments
from pyro_vae.likelihoods.softplus import inverse_softplus

MIN_RATE = 1e-6
"""With a rate of 0, to which softplus rounds, a count of 1 would be impossible, and its gradient NaN."""


class Counts(Likelihood):
    """A likelihood of counts 0, 1, 2, … by their mean, unit · softplus(h + offset).

    The unit is the data's standard deviation, the root of the mean variance, or 1 if that is larger: means of 700 are
    as near as means of 1.
    """

    discrete = True
    unbounded = True
    unit: Tensor

    def start_without_data(self) -> dict[str, Tensor]:
        """The unit is 1."""
        return {**super().start_without_data(), "unit": torch.ones(())}

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Means at those of x `[N, *data_shape]`."""
        data = moments(x)
        unit = data.whole.clamp(min=1)
        self.unit.copy_(unit)
        self.offset.copy_(inverse_softplus(mean_count(data, len(x)) / unit).unsqueeze(0))

    def mean(self, u: Tensor) -> Tensor:
        """Means of the counts for unconstrained parameters `[..., 1, *data_shape]`: `[..., *data_shape]`."""
        return MIN_RATE + self.unit * F.softplus(u.squeeze(-1 - self.event_dim))


def mean_count(data: Moments, num_data: int) -> Tensor:
    """Means of counts, half a count added: those that have not been seen are rare, not impossible."""
    return data.mean.clamp(min=0) + 0.5 / num_data


class Poisson(Counts):
    """p(x | z) = Π_d Poisson(x_d; unit · softplus(h_d + offset_d)), for counts 0, 1, 2, ….

    Args:
        data_shape: shape of one datapoint.
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)
        self.register_start()

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Rates before their softplus -> p(x | z)."""
        return PoissonInDouble(self.mean(u)).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """The Poisson distribution of each dimension's mean."""
        rate = mean_count(moments(x), len(x))
        return PoissonInDouble(rate).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, else None.

        Raises:
            BadInput: if a value is no count.
        """
        return are_counts("poisson", x)
