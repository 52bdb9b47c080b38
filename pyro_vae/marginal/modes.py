"""The modes of each datapoint's posterior, found from several starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.distributions import CholeskyNormal
from pyro_vae.marginal.laplace import find_mode, newton
from pyro_vae.marginal.local import fit_elbo
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.programs.memory import padded

WITHIN = 12.0
"""Modes whose evidence is lower by more nats than this are dropped: they hold less than 1e-5 of the posterior."""

DISTANCE = 0.5
"""Squared Mahalanobis distance below which two modes are one: searches end about 0.1 posterior sd from a mode."""

FLOOR = 0.03
"""Smallest share of a mode in the proposal, before normalization: its evidence is only an approximation."""

DF = 5.0
"""Degrees of freedom of the proposal's Student-t components."""


def starts(p: Posteriors, num_starts: int) -> tuple[Tensor, Tensor]:
    """Return S starting points `[S, N, D]`, and the guide's variance `[N, D]`.

    The first is the guide's mean. Half of them are draws from the prior, since the guide may miss a mode; the others
    are draws from the guide.
    """
    center, variance = p.center()
    parts, from_prior = [center.unsqueeze(0)], num_starts // 2
    if num_starts - 1 > from_prior:
        parts.append(p.draw_guide(num_starts - 1 - from_prior))
    if from_prior:
        parts.append(p.draw_prior(from_prior))
    return torch.cat(parts), variance


def find_modes(p: Posteriors, num_starts: int, max_modes: int, max_steps: int) -> tuple[Mixture, Tensor]:
    """Fit a Student-t to each mode that a search from several starts finds.

    Args:
        p: the posteriors.
        num_starts: S, see `starts`.
        max_modes: M, the largest number of modes kept, those with the highest evidence in Laplace's approximation.
        max_steps: evaluations of the gradient per search.

    Returns:
        The mixture, and log Σ of all kept modes' evidence − that of the mode found from the guide's mean, `[N]`, nats.
    """
    u, variance = starts(p, num_starts)
    loc, gradient = find_mode(p.value_and_grad, u, torch.diag_embed(variance.expand_as(u)), max_steps)
    scale_tril, step, decrement = newton(p.log_joint, loc, gradient)
    loc = loc + torch.where((decrement < 0.1).unsqueeze(-1), step, 0.0)
    evidence = _evidence(p.log_prob(loc), scale_tril)
    of_guide, rows = evidence[0], torch.arange(len(p), device=u.device)
    order = evidence.argsort(0, descending=True)
    loc, scale_tril, evidence = loc[order, rows], scale_tril[order, rows], evidence[order, rows]
    kept = _distinct(loc, scale_tril, evidence)
    kept &= kept.long().cumsum(0) <= max_modes
    first = (~kept).long().argsort(dim=0, stable=True)[:max_modes]  # kept ones first, in their order
    evidence = torch.where(kept, evidence, -math.inf)[first, rows]
    df = torch.full_like(evidence[0], DF)
    gain = torch.logsumexp(evidence, 0) - of_guide
    return Mixture(shares(evidence), loc[first, rows], scale_tril[first, rows], df), gain


def polish(p: Posteriors, q: Mixture, num_steps: int, lr: float = 0.05) -> Mixture:
    """Fit each component by gradient steps on its ELBO, which also gives the components their shares."""
    m, n = q.log_weights.isfinite().nonzero(as_tuple=True)
    real, m, n = len(n), padded(m), padded(n)
    f = p.rows(n).first_order
    fitted = fit_elbo(f, CholeskyNormal(q.loc[m, n], scale_tril=q.scale_tril[m, n]), num_steps, lr)
    with torch.no_grad():
        u = fitted.rsample((16,))
        elbo = (f(u) - fitted.log_prob(u)).mean(0)
    loc, scale_tril, evidence = q.loc.clone(), q.scale_tril.clone(), q.log_weights.clone()
    m, n = m[:real], n[:real]
    loc[m, n], scale_tril[m, n], evidence[m, n] = fitted.loc[:real], fitted.scale_tril[:real], elbo[:real]
    return Mixture(shares(evidence), loc, scale_tril, q.df)


def shares(evidence: Tensor) -> Tensor:
    """Return logs of the shares of modes with this log-evidence `[M, N]`, none below about `FLOOR`."""
    exists = evidence.isfinite()
    exists[0] = True
    evidence = torch.where(exists, evidence.nan_to_num(), -math.inf)
    share = evidence.log_softmax(0).exp().clamp_min(FLOOR)
    return torch.where(exists, share, 0.0).log().log_softmax(0)


def _evidence(log_joint: Tensor, scale_tril: Tensor) -> Tensor:
    """Return Laplace's approximation of the log-evidence around modes, up to (D/2) log 2π; −inf if not finite."""
    evidence = log_joint + scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(evidence.isfinite(), evidence, -math.inf)


def _distinct(loc: Tensor, scale_tril: Tensor, evidence: Tensor) -> Tensor:
    """Return which of the modes, sorted by evidence `[S, N]`, matter and are not near one with higher evidence."""
    kept = evidence > evidence[0] - WITHIN
    kept[0] = True
    for s in range(1, len(loc)):
        white = torch.linalg.solve_triangular(scale_tril[:s], (loc[s] - loc[:s]).unsqueeze(-1), upper=False)
        near = white.squeeze(-1).square().sum(-1) < DISTANCE
        kept[s] &= ~(near & kept[:s]).any(0)
    return kept
