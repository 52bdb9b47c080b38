"""Families of a table's columns of numbers."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae.distributions import BetaInDouble, NegativeBinomialInDouble, PoissonInDouble
from pyro_vae.likelihoods.column_family import Family, Observed, each
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.poisson import MIN_RATE
from pyro_vae.likelihoods.scaled import GAIN, SHARE
from pyro_vae.likelihoods.softplus import inverse_softplus

MIN_SCALE = 0.01
"""Lower bound of scales relative to the data's, without which the density of repeated values has no maximum."""
MIN_CONCENTRATION = 0.01
MIN_DISPERSION = 0.001


class Real(Family):
    """Normal; the scale is learned, or comes from the decoder with `per_row`."""

    raw_scale: nn.Parameter | None

    def __init__(self, num_columns: int, per_row: bool) -> None:
        super().__init__()
        self.num_params = 2 if per_row else 1
        start = inverse_softplus(torch.full([num_columns], SHARE - MIN_SCALE)) / GAIN
        self.register_parameter("raw_scale", None if per_row else nn.Parameter(start))

    def start(self, y: Observed) -> Tensor:
        """Start at the mean."""
        mean = each(y, lambda values: values.mean())
        raw = inverse_softplus(torch.full_like(mean, 1 - MIN_SCALE))
        return torch.stack([mean, raw], -1)[:, : self.num_params]

    def at(self, u: Tensor) -> Any:
        """Return normal distributions."""
        return dist.Normal(*self.loc_scale(u))

    def loc_scale(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and scale at u `[..., n, num_params]`, both `[..., n]`."""
        loc = u[..., 0]
        raw = u[..., 1] if self.raw_scale is None else GAIN * self.raw_scale
        return loc, (MIN_SCALE + F.softplus(raw)).expand_as(loc)

    def marginals(self, y: Observed) -> Any:
        """Return normal distributions with the data's moments."""
        return dist.Normal(*moments_of(y))


class Positive(Real):
    """Log-normal; locations and scales are measured in standard deviations of log y."""

    filler = 1.0
    unit: Tensor

    def __init__(self, num_columns: int, per_row: bool) -> None:
        super().__init__(num_columns, per_row)
        self.register_buffer("unit", torch.ones(num_columns))

    def start(self, y: Observed) -> Tensor:
        """Start at the mean of log y."""
        logs = [values.log() for values in y]
        self.unit.copy_(each(logs, lambda values: moments(values.unsqueeze(1)).unit.squeeze()))
        return super().start([values / unit for values, unit in zip(logs, self.unit, strict=True)])

    def at(self, u: Tensor) -> Any:
        """Return log-normal distributions."""
        loc, scale = self.loc_scale(u)
        return dist.LogNormal(self.unit * loc, self.unit * scale)

    def marginals(self, y: Observed) -> Any:
        """Return log-normal distributions with the moments of log y."""
        return dist.LogNormal(*moments_of([values.log() for values in y]))


class Bounded(Family):
    """Beta; its concentrations α and β are measured in units of their mean for the data, at least 1."""

    num_params = 2
    filler = 0.5
    unit: Tensor

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(num_columns))

    def start(self, y: Observed) -> Tensor:
        """Start at the concentrations that match mean and variance."""
        concentration = _concentration(y)
        unit = concentration.mean(-1).clamp(min=1)
        self.unit.copy_(unit)
        return inverse_softplus((concentration - MIN_CONCENTRATION) / unit.unsqueeze(-1))

    def at(self, u: Tensor) -> Any:
        """Return beta distributions."""
        alpha, beta = (MIN_CONCENTRATION + self.unit * F.softplus(raw) for raw in u.unbind(-1))
        return BetaInDouble(alpha, beta)

    def marginals(self, y: Observed) -> Any:
        """Return beta distributions with the data's mean and variance."""
        alpha, beta = _concentration(y).unbind(-1)
        return BetaInDouble(alpha, beta)


class Poisson(Family):
    """Poisson; rates are measured in standard deviations of the data, at least 1."""

    unit: Tensor

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(num_columns))

    def start(self, y: Observed) -> Tensor:
        """Start at the mean."""
        unit = moments_of(y)[1].clamp(min=1)
        self.unit.copy_(unit)
        return inverse_softplus(_mean_count(y) / unit).unsqueeze(-1)

    def mean(self, u: Tensor) -> Tensor:
        """Return the means `[..., n]` at u `[..., n, 1]`."""
        return MIN_RATE + self.unit * F.softplus(u.squeeze(-1))

    def at(self, u: Tensor) -> Any:
        """Return Poisson distributions."""
        return PoissonInDouble(self.mean(u))  # type: ignore[no-untyped-call]

    def marginals(self, y: Observed) -> Any:
        """Return Poisson distributions with the data's mean."""
        return PoissonInDouble(_mean_count(y))  # type: ignore[no-untyped-call]


class NegativeBinomial(Poisson):
    """Negative binomial of variance m + α m²; the dispersion α is learned for each column."""

    def __init__(self, num_columns: int) -> None:
        super().__init__(num_columns)
        self.raw_dispersion = nn.Parameter(inverse_softplus(torch.full([num_columns], 0.5)))

    @torch.no_grad()
    def start(self, y: Observed) -> Tensor:
        """Start at mean and variance."""
        self.raw_dispersion.copy_(inverse_softplus(_dispersion(y) - MIN_DISPERSION))
        return super().start(y)

    def at(self, u: Tensor) -> Any:
        """Return negative binomials."""
        return _negative_binomial(self.mean(u), MIN_DISPERSION + F.softplus(self.raw_dispersion))

    def marginals(self, y: Observed) -> Any:
        """Return negative binomials with the data's mean and variance."""
        return _negative_binomial(_mean_count(y), _dispersion(y))


def moments_of(y: Observed) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each column, `[n]`; the latter is never 0."""
    found = [moments(values.unsqueeze(1)) for values in y]
    mean, sd, unit = (torch.cat([getattr(m, name) for m in found]) for name in ("mean", "sd", "unit"))
    return mean, torch.where(sd > 0, sd.maximum(MIN_SCALE * unit), unit)


def _concentration(y: Observed) -> Tensor:
    """Return the α and β that match mean and variance, `[n, 2]`."""
    mean, sd = moments_of(y)
    mean = mean.clamp(1e-6, 1 - 1e-6)
    both = (mean * (1 - mean) / sd.square() - 1).clamp(max=1e6)
    return (torch.stack([mean, 1 - mean], -1) * both.unsqueeze(-1)).clamp(min=2 * MIN_CONCENTRATION)


def _mean_count(y: Observed) -> Tensor:
    """Return the means after adding half a count, since unseen counts are rare rather than impossible."""
    return each(y, lambda values: values.mean() + 0.5 / len(values))


def _dispersion(y: Observed) -> Tensor:
    mean = _mean_count(y)
    return ((moments_of(y)[1].square() - mean) / mean.square()).clamp(min=2 * MIN_DISPERSION)


def _negative_binomial(mean: Tensor, alpha: Tensor) -> Any:
    return NegativeBinomialInDouble((1 / alpha).expand_as(mean), logits=(mean * alpha).log())
