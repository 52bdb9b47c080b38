"""Distributions whose log-densities are computed in double precision.

Their terms cancel: x log λ, λ and log x! to a few nats, likewise the log Γ of a Beta or a Student t. For counts or
concentrations of 1e5 single precision would leave an error of a nat that depends on z, which no number of samples
averages out.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


def _log_prob(family: Any, own: Any, value: Tensor, **parameters: Tensor) -> Tensor:
    """Return log p(value), nats, of `family` with these parameters of `own`, in their common dtype with `value`."""
    in_double = family(**{name: p.double() for name, p in parameters.items()}, validate_args=own._validate_args)
    log_p: Tensor = in_double.log_prob(value.double())
    return log_p.to(torch.promote_types(value.dtype, next(iter(parameters.values())).dtype))


class PoissonInDouble(dist.Poisson):
    """`dist.Poisson`, with a `log_prob` in double precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), nats."""
        return _log_prob(dist.Poisson, self, value, rate=self.rate)


class NegativeBinomialInDouble(dist.NegativeBinomial):  # type: ignore[misc]
    """`dist.NegativeBinomial`, with a `log_prob` in double precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), nats."""
        return _log_prob(dist.NegativeBinomial, self, value, total_count=self.total_count, logits=self.logits)


class BetaInDouble(dist.Beta):
    """`dist.Beta`, with a `log_prob` in double precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), nats."""
        alpha, beta = self.concentration1, self.concentration0
        return _log_prob(dist.Beta, self, value, concentration1=alpha, concentration0=beta)


class StudentTInDouble(dist.StudentT):  # type: ignore[misc]
    """`dist.StudentT`, with a `log_prob` in double precision."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), nats."""
        return _log_prob(dist.StudentT, self, value, df=self.df, loc=self.loc, scale=self.scale)
