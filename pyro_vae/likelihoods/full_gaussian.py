"""One Gaussian with full covariance, fitted to data with missing values: a baseline of density models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyro_vae.likelihoods.moments import moments

MAX_DIM, MAX_DIM_INCOMPLETE = 2000, 100
"""Largest dimension of complete data, and of data with missing values, that is fitted."""
FITTED_TO = 2**23
"""Limit of the numbers that it is fitted to: more would hardly change it."""
WORK = 5e8
"""Limit of the N · D³ of an EM step over datapoints with missing values."""
CHUNK = 2**21
"""Numbers in the matrices that are factorized at once."""
MIN_SHRINKAGE = 1e-4
"""Least shrinkage: a column that others determine keeps a hundredth of its standard deviation, as does a likelihood."""
NUM_STEPS = 100


class Joint(Protocol):
    """A distribution of x `[N, *data_shape]`, whose NaN are missing."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of the observed entries: nats, `[N]`."""


@dataclass(frozen=True)
class FullGaussian:
    """N(x; loc, covariance) of arrays whose NaN are missing.

    Attributes:
        loc: mean, float64, `[D]`.
        covariance: positive definite, float64, `[D, D]`.
    """

    loc: Tensor
    covariance: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of the observed entries of x `[N, ...]`, D numbers each: nats, float64, `[N]`."""
        residual = x.flatten(1).double() - self.loc
        observed = ~residual.isnan()
        log_p = residual.new_empty(len(x))
        complete = observed.all(1)
        L = torch.linalg.cholesky(self.covariance)
        z = torch.linalg.solve_triangular(L, residual[complete].mT, upper=False)
        log_p[complete] = -0.5 * z.square().sum(0) - L.diagonal().log().sum()
        for rows in _chunks((~complete).nonzero().flatten(), len(L)):
            L = _cholesky(self.covariance, observed[rows])
            z = torch.linalg.solve_triangular(L, residual[rows].nan_to_num(0.0).unsqueeze(-1), upper=False)
            log_p[rows] = -0.5 * z.square().sum((1, 2)) - L.diagonal(dim1=-2, dim2=-1).log().sum(1)
        return log_p - 0.5 * math.log(2 * math.pi) * observed.sum(1).double()


def full_gaussian(x: Tensor, sd: Tensor | None = None) -> FullGaussian | None:
    """Fit a Gaussian to x `[N, D]`, whose NaN are missing; None if D is too large.

    Correlations are shrunk towards 0 by the λ of `shrinkage`, Σ = (1 − λ) S + λ diag S, so that there is a density if
    N < D. With missing values, S is that of EM over the observed ones (Dempster, Laird & Rubin 1977, §4.1.3), shrunk in
    each step.

    Args:
        x: data; each column has an observed value.
        sd: standard deviations `[D]`, positive; where they exceed those of the data, e.g. in constant columns, they
            replace them. None: those of the data, or 1 where these are 0.
    """
    D = x.shape[1]
    x = x[: max(1000, FITTED_TO // D)].double()
    limit = MAX_DIM_INCOMPLETE if x.isnan().any() else MAX_DIM
    if limit < D:
        return None
    data = moments(x)
    own = data.sd.where(data.sd > 0, 1.0)
    sd = own if sd is None else sd.maximum(own.where(data.sd > 0, 0.0))
    mean, covariance = em((x - data.mean) / sd, shrinkage((x - data.mean) / own), least=(sd > data.sd).double())
    return FullGaussian(data.mean + sd * mean, sd.unsqueeze(1) * covariance * sd)


def shrinkage(u: Tensor) -> float:
    """Return the λ by which the correlations of standardized data u `[N, D]`, which may hold NaN, are shrunk.

    λ = Σ Var(r_ij) / Σ r_ij² over i ≠ j, between `MIN_SHRINKAGE` and 1: Schäfer & Strimmer (2005), A shrinkage approach
    to large-scale covariance matrix estimation, https://doi.org/10.2202/1544-6115.1175, target D. Unlike that of Ledoit
    & Wolf, it does not depend on the units of the columns.
    """
    both, w = (~u.isnan()).double(), u.nan_to_num(0.0)
    n = (both.mT @ both).clamp(min=2)
    r = w.mT @ w / n
    variance = (w.square().mT @ w.square() / n - r.square()) / (n - 1)
    total, noise = (m.sum() - m.diagonal().sum() for m in (r.square(), variance))
    return min(1.0, max(MIN_SHRINKAGE, (noise / total).item())) if total > 0 else 1.0


def em(u: Tensor, shrink: float, least: Tensor, tolerance: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Return mean `[D]` and covariance `[D, D]` of a Gaussian with the data u `[N, D]`, whose NaN are missing.

    Args:
        u: data, about standardized, float64. Of those with missing values, only the first are used if D is large.
        shrink: share by which correlations are reduced, in each M-step.
        least: lower bounds of the variances, `[D]`.
        tolerance: stop when no entry of the covariance changes by more.
    """
    D, incomplete = u.shape[1], u.isnan().any(1)
    complete, u = u[~incomplete], u[incomplete][: int(WORK / D**3) + 1]
    observed, n, N = ~u.isnan(), len(complete), len(complete) + len(u)
    first, second = complete.sum(0), complete.mT @ complete
    mean, covariance = u.new_zeros(D), torch.eye(D).to(u)
    for _ in range(NUM_STEPS):
        filled, precision = [], torch.zeros_like(covariance)
        for rows in _chunks(torch.arange(len(u)), D):
            o = observed[rows].double()
            # Σ_oo⁻¹ of each datapoint, 0 where an entry is missing
            P = torch.cholesky_inverse(_cholesky(covariance, observed[rows])) * o.unsqueeze(-1) * o.unsqueeze(-2)
            residual = (u[rows] - mean).nan_to_num(0.0)
            filled.append(mean + (P @ residual.unsqueeze(-1)).squeeze(-1) @ covariance)  # E[u | observed]
            precision += P.sum(0)
        y = torch.cat([*filled, u.new_zeros(0, D)])
        mean = (first + y.sum(0)) / N
        scatter = second - mean.outer(first) - first.outer(mean) + n * mean.outer(mean)
        scatter = scatter + (y - mean).mT @ (y - mean) + len(y) * covariance - covariance @ precision @ covariance
        before, variance = covariance, (scatter.diagonal() / N).maximum(least)
        covariance = (1 - shrink) * scatter / N
        covariance = covariance - covariance.diagonal().diag() + variance.diag()
        if (covariance - before).abs().max() < tolerance:
            break
    return mean, covariance


def _cholesky(covariance: Tensor, observed: Tensor) -> Tensor:
    """Return the factors `[n, D, D]` of the covariances of observed entries `[n, D]`, the identity elsewhere."""
    both = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    return torch.linalg.cholesky(torch.where(both, covariance, torch.eye(len(covariance)).to(covariance)))


def _chunks(rows: Tensor, D: int) -> Iterator[Tensor]:
    """Split row numbers so that a matrix `[D, D]` of each fits into memory."""
    return (part for part in rows.split(max(1, CHUNK // D**2)) if len(part))
