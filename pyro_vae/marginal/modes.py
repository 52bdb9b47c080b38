"""The modes of each datapoint's posterior, found from several starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

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

NEAR = 6.0
"""Modes whose evidence is lower by more nats than this are not missed: they hold a quarter of a percent."""

DISTANCE = 0.5
"""Squared Mahalanobis distance below which two modes are one: searches end about 0.1 posterior sd from a mode."""

CONVERGED = 0.1
"""Twice the nats that a Newton step may gain at a mode."""

FEW_DIM = 10
"""Largest number of dimensions in which some draws from the prior come near most modes."""

MANY_DIM = 20
"""Dimensions up to which `polish` moves by its full step: a scale_tril has about D² / 2 entries that add up noise."""

ON_A_SLOPE = 10.0
"""Twice the nats that a Newton step may gain where the curvature still tells the volume of a mode."""

NEGLIGIBLE = 0.1
"""Gradients, in nats per standard deviation, much smaller than which `polish` hardly follows.

Adam would make full steps along gradients that are only noise, and worsen a proposal that was exact."""

NUM_RESUMED = 6
"""Searches that are resumed if one has not converged."""

MOST_RESUMED = 4
"""How often they are resumed at most, while that raises an evidence."""

FLOOR = 0.03
"""Smallest share of a mode in the proposal, before normalization: its evidence is only an approximation."""

DF = 5.0
"""Degrees of freedom of the proposal's Student-t components, at least.

They rise with D: the radii of draws from a heavy-tailed one would rarely be those of the posterior."""


def starts(p: Posteriors, num_starts: int, num_prior: int) -> tuple[Tensor, Tensor]:
    """Return S starting points `[S, N, D]`, and the guide's variance `[N, D]`.

    The first is the guide's mean. The last `num_prior` are draws from the prior, since the guide may miss a mode; the
    others are draws from the guide.
    """
    center, variance = p.center()
    variance = variance.nan_to_num(1.0)
    parts = [center.unsqueeze(0)]
    if num_starts - 1 > num_prior:
        parts.append(p.draw_guide(num_starts - 1 - num_prior))
    if num_prior:
        parts.append(p.draw_prior(num_prior))
    return torch.cat(parts).nan_to_num(), variance  # a NaN in a row of x must not stop the others


@dataclass(frozen=True)
class Search:
    """What a search found for N datapoints.

    Attributes:
        q: a Student-t at each mode that is kept.
        gain: log Σ of all kept modes' evidence − that of the mode found from the guide's mean, `[N]`, in nats.
        num_found: number of distinct modes near the best one to which searches converged, `[N]`; in few dimensions
            those at which other searches ended, too: where a density has a kink, none converges.
        unseen: of the searches that started at draws from the prior and led to such a mode, the share of those
            that were alone in reaching theirs, `[N]`. It estimates the probability that another draw would lead to a
            new mode (Good 1953, Biometrika 40(3-4); for searches Boender & Rinnooy Kan 1987, Mathematical Programming
            37). The share of the evidence that those modes hold, if it is smaller: new ones will be like them.
        num_led: number of these searches, from draws from the prior, that led to a mode near the best one, `[N]`.
    """

    q: Mixture
    gain: Tensor
    num_found: Tensor
    unseen: Tensor
    num_led: Tensor


def find_modes(
    p: Posteriors,
    num_starts: int,
    max_modes: int,
    max_steps: int,
    num_prior: int | None = None,
    known: Tensor | None = None,
) -> Search:
    """Fit a Student-t to each mode that a search from several starts finds.

    Args:
        p: the posteriors.
        num_starts: S, see `starts`.
        max_modes: M, the largest number of modes kept, those with the highest evidence in Laplace's approximation.
        max_steps: evaluations of the gradient per search.
        num_prior: starts that are draws from the prior; half of them if None.
        known: more starts, `[m, N, D]`: modes that another search has found.
    """
    num_prior = num_starts // 2 if num_prior is None else num_prior
    u, variance = starts(p, num_starts, num_prior)
    u = u if known is None else torch.cat([u[:1], known, u[1:]])
    widest = variance.sqrt()
    found = _laplace(p, u, torch.diag_embed(variance.expand_as(u)), widest, max_steps)
    of_guide, census = found.evidence[0], found.census(num_prior)
    kept = found.best(max(max_modes, NUM_RESUMED), within=math.inf)
    kept = _resumed(p, kept, widest, max_steps).best(max_modes)  # only the best ones are worth more steps
    loc, scale_tril, evidence = kept.loc, kept.scale_tril, kept.evidence
    df = torch.full_like(evidence[0], max(DF, u.shape[-1] / 4))
    gain = torch.logsumexp(evidence, 0) - of_guide
    return Search(Mixture(shares(evidence), loc, scale_tril, df), gain, *census)


@dataclass(frozen=True)
class _Modes:
    """S candidates for modes, with Laplace's approximation there.

    Attributes:
        loc: `[S, N, D]`.
        scale_tril: `[S, N, D, D]`.
        evidence: its log-evidence up to (D/2) log 2π, `[S, N]`, nats; −inf if not finite or not a mode.
        decrement: twice the nats that a Newton step would gain, `[S, N]`.
        curvature: scale_tril as the curvature has it, however absurd, `[S, N, D, D]`.
    """

    loc: Tensor
    scale_tril: Tensor
    evidence: Tensor
    decrement: Tensor
    curvature: Tensor

    def __getitem__(self, index: Any) -> _Modes:
        """Return some of the candidates."""
        return _Modes(*(getattr(self, field.name)[index] for field in fields(self)))

    def index_copy(self, index: Tensor, other: _Modes) -> _Modes:
        """Return these candidates, with those of `other` for the datapoints of `index`."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Modes(*(mine.index_copy(1, index, theirs) for mine, theirs in pairs))

    def best(self, max_modes: int, within: float = WITHIN) -> _Modes:
        """Return distinct modes with the highest evidence, in descending order; the rest have evidence −inf."""
        rows = torch.arange(self.loc.shape[1], device=self.loc.device)
        order = self.evidence.argsort(0, descending=True)
        kept = _distinct(self.loc[order, rows], self.scale_tril[order, rows], self.evidence[order, rows], within)
        first = (~kept).long().argsort(dim=0, stable=True)[:max_modes]  # kept ones first, in their order
        order, exists = order[first, rows], kept[first, rows]
        best = self[order, rows]
        evidence = torch.where(exists, best.evidence, -math.inf)
        return replace(best, evidence=evidence, decrement=torch.where(exists, best.decrement, 0.0))

    def census(self, num_prior: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return `num_found`, `unseen` and `num_led` of `Search`; the last `num_prior` starts came from the prior."""
        converged = (self.decrement < CONVERGED) | (self.loc.shape[-1] <= FEW_DIM)
        ends = replace(self, evidence=torch.where(converged, self.evidence, -math.inf))
        modes = ends.best(len(self.loc), NEAR)
        exists = modes.evidence.isfinite()
        num_found = exists.sum(0)
        visits = torch.zeros_like(exists, dtype=torch.long)
        for m in range(int(num_found.max())):  # they come first
            visits[m] = ends.near(modes.loc[m], modes.scale_tril[m])[len(self.loc) - num_prior :].sum(0)
        visits = torch.where(exists, visits, 0)
        single = visits == 1
        mass = torch.where(single, modes.evidence.softmax(0).nan_to_num(), 0).sum(0)
        num_led = visits.sum(0)
        return num_found, (single.sum(0) / num_led.clamp_min(1)).minimum(mass), num_led

    def near(self, loc: Tensor, scale_tril: Tensor) -> Tensor:
        """Return which of these are the same mode as the one at loc `[N, D]`, `[S, N]`."""
        white = torch.linalg.solve_triangular(scale_tril, (self.loc - loc).unsqueeze(-1), upper=False)
        return (white.squeeze(-1).square().sum(-1) < DISTANCE) & self.evidence.isfinite()


def _laplace(p: Posteriors, u: Tensor, metric: Tensor, scale: Tensor, max_steps: int) -> _Modes:
    """Search a mode from each u `[S, N, D]`, with the inverse curvature `metric` `[S, N, D, D]` as a first guess.

    A search that ends on a slope may find hardly any curvature there, and therefore an absurd volume. Unless a Newton
    step would gain little (`ON_A_SLOPE`), a volume larger than that of twice the guide's `scale` `[N, D]` is replaced
    by the guide's.
    """
    loc, gradient = find_mode(p.value_and_grad, u, metric, max_steps)
    curvature, step, decrement = newton(p.log_joint, loc, gradient)
    value, of_step = p.log_prob(loc), p.log_prob(loc + step)
    uphill = (decrement < CONVERGED) | (of_step > value)
    loc = loc + torch.where(uphill.unsqueeze(-1), step, 0.0)
    volume, of_guide = curvature.diagonal(dim1=-2, dim2=-1).log().sum(-1), scale.log().sum(-1)
    usable = (decrement < ON_A_SLOPE) | (volume < of_guide + scale.shape[-1] * math.log(2))
    usable &= curvature.isfinite().flatten(-2).all(-1)
    scale_tril = torch.where(usable[..., None, None], curvature, torch.diag_embed(scale))
    evidence = torch.where(uphill, of_step, value) + torch.where(usable, volume, of_guide)
    return _Modes(loc, scale_tril, torch.where(evidence.isfinite(), evidence, -math.inf), decrement, curvature)


def _resumed(p: Posteriors, modes: _Modes, scale: Tensor, max_steps: int) -> _Modes:
    """Resume the searches `[S, N]` of datapoints of which one has not converged, while that raises an evidence.

    The metric is the curvature, since the guide may be far too narrow.
    """
    active = (modes.decrement > CONVERGED).any(0).nonzero().squeeze(1)
    for _ in range(MOST_RESUMED):
        if not len(active):
            break
        index, real = padded(active), slice(len(active))
        old = modes[:, index]
        new = _laplace(p.rows(index), old.loc, old.curvature @ old.curvature.mT, scale[index], max_steps)
        new, old = new[:, real], old[:, real]
        modes = modes.index_copy(active, new)
        gained = (new.evidence - old.evidence > CONVERGED) & (new.decrement > CONVERGED)
        active = active[gained.any(0)]
    return modes


def polish(p: Posteriors, q: Mixture, num_steps: int = 30, lr: float = 0.05) -> Mixture:
    """Fit each component by gradient steps on its ELBO, which also gives the components their shares.

    In many dimensions D, there are more steps, proportional to D, and each is shorter, proportional to 1 / D.
    """
    many = max(1.0, q.loc.shape[-1] / MANY_DIM)
    m, n = q.log_weights.isfinite().nonzero(as_tuple=True)
    real, m, n = len(n), padded(m), padded(n)
    f, start = p.rows(n).first_order, CholeskyNormal(q.loc[m, n], scale_tril=q.scale_tril[m, n])
    fitted = fit_elbo(f, start, int(num_steps * many), lr / many, eps=NEGLIGIBLE)
    with torch.no_grad():
        u = fitted.rsample((16,))
        elbo = (f(u) - fitted.log_prob(u)).mean(0)
    loc, scale_tril, evidence = q.loc.clone(), q.scale_tril.clone(), q.log_weights.clone()
    usable = elbo.isfinite() & fitted.scale_tril.isfinite().flatten(-2).all(-1)  # the others stay as they are
    usable[real:] = False
    m, n = m[usable], n[usable]
    loc[m, n], scale_tril[m, n], evidence[m, n] = fitted.loc[usable], fitted.scale_tril[usable], elbo[usable]
    return Mixture(shares(evidence), loc, scale_tril, q.df)


def shares(evidence: Tensor) -> Tensor:
    """Return logs of the shares of modes with this log-evidence `[M, N]`, none below about `FLOOR`."""
    exists = evidence.isfinite()
    exists[0] = True
    evidence = torch.where(exists, evidence.nan_to_num(), -math.inf)
    share = evidence.log_softmax(0).exp().clamp_min(FLOOR)
    return torch.where(exists, share, 0.0).log().log_softmax(0)


def _distinct(loc: Tensor, scale_tril: Tensor, evidence: Tensor, within: float) -> Tensor:
    """Return which of the modes, sorted by evidence `[S, N]`, matter and are not near one with higher evidence."""
    kept = evidence > evidence[0] - within
    kept[0] = True
    for s in range(1, len(loc)):
        white = torch.linalg.solve_triangular(scale_tril[:s], (loc[s] - loc[:s]).unsqueeze(-1), upper=False)
        near = white.squeeze(-1).square().sum(-1) < DISTANCE
        kept[s] &= ~(near & kept[:s]).any(0)
    return kept
