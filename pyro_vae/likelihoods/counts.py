"""Distributions of counts whose log-densities are summed in double precision.

Terms as x log λ, λ and log x! cancel to a few nats: for counts of 1e5 single precision would leave an error of a nat,
another for each z, which no number of samples averages away.
"""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor


class PoissonInDouble(dist.Poisson):
    """`dist.Poisson`, with a `log_prob` that keeps its digits."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats, in the precision of `value`."""
        in_double = dist.Poisson(self.rate.double(), validate_args=self._validate_args)
        log_p: Tensor = in_double.log_prob(value.double())
        return log_p.to(value.dtype)


class NegativeBinomialInDouble(dist.NegativeBinomial):  # type: ignore[misc]  # Pyro's classes are untyped
    """`dist.NegativeBinomial`, with a `log_prob` that keeps its digits."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), nats, in the precision of `value`."""
        in_double = dist.NegativeBinomial(
            self.total_count.double(), logits=self.logits.double(), validate_args=self._validate_args
        )
        log_p: Tensor = in_double.log_prob(value.double())
        return log_p.to(value.dtype)
