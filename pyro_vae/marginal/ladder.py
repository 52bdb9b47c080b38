"""The steps by which `auto` improves the proposal of a datapoint, from cheap to dear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pyro_vae.marginal.ais import AIS, Start
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.fit_mixture import fit_mixture, reweight
from pyro_vae.marginal.hmc import sample_posterior
from pyro_vae.marginal.judge import MIN_ESS
from pyro_vae.marginal.jump import jump
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.modes import find_modes, polish
from pyro_vae.marginal.posterior import Posteriors

NUM_ANNEALED = 300
"""Chains of annealed importance sampling for each datapoint."""

FEWEST = 500
"""Smallest number of draws that the steps after the search multiply."""

SHRINKAGE = 20.0
"""Draws per dimension that the search's covariances count for; posteriors of 20 dimensions need so many."""

PRIOR_SHARE = 0.1
"""Share of draws from the prior, of those that do not come from the guide, where the search's proposal fails."""

NUM_LEAPFROG = 6
"""Leapfrog steps of each transition."""

NUM_COMPONENTS = 8
"""Components that are added to the mixture where the modes' own ones do not suffice."""

KEPT = 5000
"""Largest number of draws of each datapoint that are kept, to fit shares."""


@dataclass(frozen=True)
class Proposal:
    """A mixture `q` together with shares of the guide and the prior.

    These limit the weights, to 1/guide_weight times those of the guide and 1/prior_weight times those of the prior, in
    case the mixture misses a part of the posterior (Hesterberg 1995, Technometrics 37(2)).

    Attributes:
        q: a component for each mode.
        guide_weight: share of draws from the guide.
        prior_weight: share of draws from the prior.
        gain: evidence of all modes − that of the mode found from the guide's mean, by Laplace's approximation, `[N]`.
    """

    q: Mixture
    guide_weight: float
    gain: Tensor
    prior_weight: float = 0.0

    @property
    def num_modes(self) -> Tensor:
        """Number of components of each datapoint, `[N]`: after the search, one for each mode."""
        return self.q.log_weights.isfinite().sum(0)

    def rows(self, index: Tensor) -> Proposal:
        """Return the proposals of some of the datapoints."""
        return replace(self, q=self.q.rows(index), gain=self.gain[index])

    @classmethod
    def cat(cls, parts: Sequence[Proposal]) -> Proposal:
        """Concatenate the proposals of several sets of datapoints."""
        gain = torch.cat([part.gain for part in parts])
        return replace(parts[0], q=Mixture.cat([part.q for part in parts]), gain=gain)

    def draw(self, p: Posteriors, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw u `[k, N, D]`, k ≤ `KEPT`, with the log-weights of all draws, `[num_samples, N]`, float64."""
        kept: list[Tensor] = []
        log_w = []
        for size in p.blocks(num_samples):
            u, _ = self.q.draw(size)
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
        log_q = math.log(1 - self.guide_weight - self.prior_weight) + self.q.log_prob(u)
        if self.guide_weight:
            log_q = torch.logaddexp(log_q, math.log(self.guide_weight) + p.log_guide(u))
        if self.prior_weight:
            log_q = torch.logaddexp(log_q, math.log(self.prior_weight) + p.log_prior(u))
        return (p.log_prob(u) - log_q).double()

    def reweighted(self, u: Tensor, log_w: Tensor) -> Proposal:
        """Return the proposal with shares fitted to weighted draws: its own ones, u `[k, N, D]`."""
        return replace(self, q=reweight(self.q, u, log_w[: len(u)]))


@dataclass(frozen=True)
class Stage:
    """A step of the ladder.

    Attributes:
        name: one of `evidence.STAGES`.
        num_samples: K, the number of weights that give the estimate.
        run: improves the proposal, and returns it with new independent log-weights `[K, N]`.
        promising: whether to take this step, `[N]`, given the last estimates. If not, the next step follows.
    """

    name: str
    num_samples: int
    run: Callable[[Posteriors, Proposal], tuple[Proposal, Tensor]]
    promising: Callable[[LogEvidence], Tensor]


def ladder(num_samples: int, target_se: float) -> list[Stage]:
    """Return the steps after the search, whose estimates came from `num_samples` draws."""

    def more(name: str, num_samples: int) -> Stage:
        def promising(evidence: LogEvidence) -> Tensor:
            factor = num_samples / evidence.extra["num_draws"]
            precise = evidence.se <= 0.9 * target_se * factor.sqrt()
            return precise & (evidence.ess * factor >= 1.2 * MIN_ESS) & ~(evidence.pareto_k > 0.7)

        return Stage(name, num_samples, partial(sample, num_samples=num_samples), promising)

    def hmc(num_samples: int, *lengths: int) -> Stage:
        def run(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
            return sample(p, chains(p, proposal, *lengths), num_samples)

        return Stage("HMC", num_samples, run, always)

    def always(evidence: LogEvidence) -> Tensor:
        return torch.ones_like(evidence.log_px, dtype=torch.bool)

    K = max(num_samples, FEWEST)
    return [
        *(more("more samples", n * K) for n in (2, 5, 20)),
        hmc(5 * K, 8, 50, 100),
        more("HMC", 20 * K),
        hmc(20 * K, 16, 100, 200, NUM_COMPONENTS),
        Stage("AIS", NUM_ANNEALED, annealed, always),
    ]


def sample(p: Posteriors, proposal: Proposal, num_samples: int) -> tuple[Proposal, Tensor]:
    """Draw from a proposal, and fit its shares to the draws for the next step."""
    u, log_w = proposal.draw(p, num_samples)
    return proposal.reweighted(u, log_w), log_w


def search(p: Posteriors, num_starts: int, max_modes: int, guide_weight: float) -> Proposal:
    """Find modes from several starts, and fit a Student-t to each."""
    q, gain = find_modes(p, num_starts, max_modes, max_steps=25)
    return Proposal(polish(p, q, num_steps=30), guide_weight, gain)


def chains(
    p: Posteriors, proposal: Proposal, num_chains: int, num_warmup: int, num_steps: int, num_components: int = 0
) -> Proposal:
    """Add a mixture fitted to Markov chains, which start around all modes and jump between them.

    The former mixture stays: few draws of many dimensions give worse covariances than the search.

    Args:
        p: the posteriors.
        proposal: to be improved.
        num_chains: chains for each datapoint.
        num_warmup: transitions that adapt the step sizes.
        num_steps: transitions that follow.
        num_components: components around draws of the chains, beside those of the modes, to follow curved posteriors.
    """
    q, rows = proposal.q, torch.arange(len(p), device=p.x.device)
    mode = torch.arange(num_chains, device=rows.device).unsqueeze(1) % q.log_weights.isfinite().sum(0)
    loc, scale_tril = q.loc[mode, rows], q.scale_tril[mode, rows]
    start = loc + (scale_tril @ torch.randn_like(loc).unsqueeze(-1)).squeeze(-1)
    steps, _ = sample_posterior(
        p.value_and_grad, start, scale_tril, num_warmup, num_steps, NUM_LEAPFROG, jump=partial(jump, q)
    )
    draws, more = steps.flatten(0, 1), q
    if num_components:
        more = q.widened(draws[torch.randperm(len(draws), device=rows.device)[:num_components]])
    both = q.union(fit_mixture(more, draws, shrinkage=SHRINKAGE))
    fitted = replace(proposal, q=both, prior_weight=(1 - proposal.guide_weight) * PRIOR_SHARE)
    return fitted.reweighted(*fitted.draw(p, 1000))


def annealed(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
    """Anneal chains from the mixture to the posterior: each gives a weight, see `AIS`."""
    ais = AIS(NUM_ANNEALED, num_temperatures=100)
    start = Start.at(proposal.q, proposal.q.largest())
    log_w, _, _ = ais.log_weights(start, p.value_and_grad, len(p), lambda pairs: None)
    return proposal, log_w
