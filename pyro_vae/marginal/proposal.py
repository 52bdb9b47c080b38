"""The proposal of each datapoint's importance sampling: a mixture with shares of the guide and the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.marginal.fit_mixture import reweight
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors

KEPT = 5000
"""Largest number of draws of each datapoint that are kept, to fit shares."""

ROUNDED = 0.02
"""Share of the weight so close to a bound that rounding changes it, from which an estimate is unreliable.

For Beta(a, a) priors in float32, a from 0.05 to 0.3, estimates are too low by about as many nats, or by more.
"""


@dataclass(frozen=True)
class Proposal:
    """A mixture `q` together with shares of the guide and the prior.

    These limit the weights, to 1/guide_weight times those of the guide and 1/prior_weight times those of the prior, in
    case the mixture misses a part of the posterior (Hesterberg 1995, Technometrics 37(2)).

    Attributes:
        q: a component for each mode.
        guide_weight: share of draws from the guide.
        gain: evidence of all modes − that of the mode found from the guide's mean, by Laplace's approximation, `[N]`.
        incomplete: whether the posterior has more modes than the search found or kept, `[N]`.
        prior_weight: share of draws from the prior.
        rounded: `is_rounded` of the last draws, `[N]`.
    """

    q: Mixture
    guide_weight: float
    gain: Tensor
    incomplete: Tensor
    prior_weight: float = 0.0
    rounded: Tensor | None = None

    @property
    def num_modes(self) -> Tensor:
        """Number of components of each datapoint, `[N]`: after the search, one for each mode."""
        return self.q.log_weights.isfinite().sum(0)

    def rows(self, index: Tensor) -> Proposal:
        """Return the proposals of some of the datapoints."""
        rounded = None if self.rounded is None else self.rounded[index]
        gain, incomplete = self.gain[index], self.incomplete[index]
        return replace(self, q=self.q.rows(index), gain=gain, incomplete=incomplete, rounded=rounded)

    @classmethod
    def cat(cls, parts: Sequence[Proposal]) -> Proposal:
        """Concatenate the proposals of several sets of datapoints."""
        rounded = [part.rounded for part in parts if part.rounded is not None]
        return replace(
            parts[0],
            q=Mixture.cat([part.q for part in parts]),
            gain=torch.cat([part.gain for part in parts]),
            incomplete=torch.cat([part.incomplete for part in parts]),
            rounded=torch.cat(rounded) if rounded else None,
        )

    def draw(self, p: Posteriors, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw u `[k, N, D]`, k ≤ `KEPT`, with the log-weights of all draws, `[num_samples, N]`, float64."""
        kept: list[Tensor] = []
        log_w = []
        for size in p.blocks(num_samples):
            u = self.q.sample(size)
            which = torch.rand((*u.shape[:2], 1), dtype=u.dtype, device=u.device)
            if self.guide_weight:
                u = torch.where(which < self.guide_weight, p.draw_guide(size), u)
            if self.prior_weight:
                u = torch.where(which > 1 - self.prior_weight, p.draw_prior(size), u)
            log_w.append(self.log_weight(p, u))
            if sum(len(part) for part in kept) < KEPT:
                kept.append(u[:KEPT])
        return torch.cat(kept), torch.cat(log_w)

    def log_weight(self, p: Posteriors, u: Tensor) -> Tensor:
        """Return log p(x, u) − log q(u), `[k, N]`, float64, for u `[k, N, D]`."""
        return (p.log_prob(u) - self.log_density(p, u)).double()

    def log_density(self, p: Posteriors, u: Tensor) -> Tensor:
        """Return log q(u) of the whole, `[k, N]`, for u `[k, N, D]`."""
        log_q = math.log(1 - self.guide_weight - self.prior_weight) + self.q.log_prob(u)
        if self.guide_weight:
            log_q = torch.logaddexp(log_q, math.log(self.guide_weight) + p.log_guide(u))
        if self.prior_weight:
            log_q = torch.logaddexp(log_q, math.log(self.prior_weight) + p.log_prior(u))
        return log_q

    def reweighted(self, u: Tensor, log_w: Tensor) -> Proposal:
        """Return the proposal with shares fitted to weighted draws: its own ones, u `[k, N, D]`."""
        return replace(self, q=reweight(self.q, u, log_w[: len(u)]))


def is_rounded(p: Posteriors, u: Tensor, log_w: Tensor) -> Tensor | None:
    """Return whether draws u `[k, N, D]` lie so close to a bound of their support that weights miss a part of p(x).

    Args:
        p: the posteriors.
        u: draws.
        log_w: log-weights of these draws, and perhaps of further ones.

    Returns:
        Whether more than `ROUNDED` of the weight is where rounding moves u (`Latents.rounds`), `[N]`; None if no latent
        is bounded.
    """
    if not p.latents.is_constrained:
        return None
    return (log_w[: len(u)].softmax(0) * p.latents.rounds(u)).sum(0) > ROUNDED
