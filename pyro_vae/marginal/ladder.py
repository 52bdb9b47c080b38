"""The steps by which `auto` improves the proposal of a datapoint, from cheap to dear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pyro_vae.marginal.ais import AIS, Start
from pyro_vae.marginal.chains import fit, run_chains
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.judge import MIN_ESS
from pyro_vae.marginal.modes import find_modes, polish
from pyro_vae.marginal.pareto import LARGEST
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import Proposal, is_rounded
from pyro_vae.marginal.quadrature import MAX_DIM

NUM_ANNEALED = 300
"""Chains of annealed importance sampling for each datapoint."""

FEWEST = 500
"""Smallest number of draws that the steps after the search multiply."""

PRIOR_SHARE = 0.1
"""Share of draws from the prior, of those that do not come from the guide: after the search, or in few dimensions."""

NUM_COMPONENTS = 8
"""Components that are added to the mixture where the modes' own ones do not suffice."""


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
            return precise & (evidence.ess * factor >= 1.2 * MIN_ESS) & ~(evidence.pareto_k > LARGEST)

        return Stage(name, num_samples, partial(sample, num_samples=num_samples), promising)

    def hmc(num_samples: int, *lengths: int) -> Stage:
        def run(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
            return sample(p, from_chains(p, proposal, *lengths), num_samples)

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
    return replace(proposal.reweighted(u, log_w), rounded=is_rounded(p, u, log_w)), log_w


def search(p: Posteriors, num_starts: int, max_modes: int, guide_weight: float) -> Proposal:
    """Find modes from several starts, and fit a Student-t to each.

    In few dimensions, a share of the prior is added: it shows modes that no start found.
    """
    q, gain = find_modes(p, num_starts, max_modes, max_steps=25)
    proposal = Proposal(polish(p, q, num_steps=30), guide_weight, gain)
    return with_prior(proposal) if p.latents.dim <= MAX_DIM else proposal


def with_prior(proposal: Proposal) -> Proposal:
    """Return the proposal with a share of the prior."""
    return replace(proposal, prior_weight=(1 - proposal.guide_weight) * PRIOR_SHARE)


def from_chains(
    p: Posteriors, proposal: Proposal, num_chains: int, num_warmup: int, num_draws: int, num_components: int = 0
) -> Proposal:
    """Add a mixture fitted to Markov chains, and a share of the prior.

    Args:
        p: the posteriors.
        proposal: to be improved.
        num_chains: chains for each datapoint.
        num_warmup: transitions that adapt the step sizes.
        num_draws: transitions that follow.
        num_components: components around draws of the chains, beside those of the modes, to follow curved posteriors.
    """
    draws = run_chains(p, proposal, proposal.q, num_chains, num_warmup, num_draws).draws
    start = proposal.q
    if num_components:
        flat = draws.flatten(0, 1)
        start = start.widened(flat[torch.randperm(len(flat), device=flat.device)[:num_components]])
    return fit(p, with_prior(proposal), draws, start)


def annealed(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
    """Anneal chains from the mixture to the posterior: each gives a weight, see `AIS`."""
    ais = AIS(NUM_ANNEALED, num_temperatures=100)
    start = Start.at(proposal.q, proposal.q.largest())
    log_w, _, _ = ais.log_weights(start, p.value_and_grad, len(p), lambda pairs: None)
    return proposal, log_w
