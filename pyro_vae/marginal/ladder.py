"""The steps by which `auto` improves the proposal of a datapoint, from cheap to dear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pyro_vae.marginal.ais import AIS, Start
from pyro_vae.marginal.chains import fit, run_chains
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.incremental import incremental
from pyro_vae.marginal.judge import MIN_ESS
from pyro_vae.marginal.modes import FEW_DIM, MANY_DIM, Search, find_modes, polish
from pyro_vae.marginal.pareto import LARGEST
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import Proposal, is_rounded

NUM_ANNEALED = 300
"""Chains of annealed importance sampling for each datapoint; twice as many where these would do."""

FEWEST = 500
"""Smallest number of draws that the steps after the search multiply."""

FROM_PRIOR = 0.5
"""Share of these chains that start at draws from the prior."""

PRIOR_SHARE = 0.1
"""Share of draws from the prior, of those that do not come from the guide: after the search, or in few dimensions."""

WIDE = 8
"""How many times as many starts search posteriors of several modes again; half of it in many dimensions."""

REPEATED = (1, 2)
"""Relative numbers of starts of these searches; the second is for posteriors of which the first misses a mode."""

WIDE_AT_ONCE = 8
"""Datapoints whose many modes are found at once."""

NUM_KNOWN = 4
"""Modes of the last search at which a wide one starts, too."""

MATTERS = 0.05
"""Share of the evidence which modes of single starts have to hold, so that others like them matter."""

UNSEEN = 0.1
"""Probability that another start finds a new mode, above which a wide search is incomplete."""

FEWEST_LED = 10
"""Searches that have to lead to modes that matter, so that modes that none of them found are unlikely to exist."""

NUM_COMPONENTS = 8
"""Components that are added to the mixture where the modes' own ones do not suffice."""


@dataclass(frozen=True)
class Stage:
    """A step of the ladder.

    Attributes:
        name: one of `evidence.STAGES`.
        num_samples: K, the number of weights that give the estimate.
        run: improves the proposal, and returns it with new independent log-weights `[K, N]`.
        promising: whether to take this step, `[N]`, given the last estimates and proposals. If not, the next step
            follows.
    """

    name: str
    num_samples: int
    run: Callable[[Posteriors, Proposal], tuple[Proposal, Tensor]]
    promising: Callable[[LogEvidence, Proposal], Tensor]


def ladder(num_samples: int, num_starts: int, target_se: float) -> list[Stage]:
    """Return the steps after a search from `num_starts`, whose estimates came from `num_samples` draws."""

    def more(name: str, num_samples: int) -> Stage:
        def promising(evidence: LogEvidence, proposal: Proposal) -> Tensor:
            factor = num_samples / evidence.extra["num_draws"]
            precise = evidence.se <= 0.9 * target_se * factor.sqrt()
            return precise & ~proposal.incomplete & would_do(evidence, factor)

        return Stage(name, num_samples, partial(sample, num_samples=num_samples), promising)

    def hmc(num_samples: int, *lengths: int) -> Stage:
        def run(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
            return sample(p, from_chains(p, proposal, *lengths), num_samples)

        return Stage("HMC", num_samples, run, lambda evidence, proposal: ~proposal.incomplete)

    def add(num_samples: int) -> Stage:
        def run(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
            return sample(p, incremental(p, proposal), num_samples)

        def promising(evidence: LogEvidence, proposal: Proposal) -> Tensor:
            return ~proposal.incomplete & (proposal.q.loc.shape[-1] <= MANY_DIM)

        return Stage("more samples", num_samples, run, promising)

    def anneal(num_chains: int, promising: Callable[[LogEvidence, Proposal], Tensor]) -> Stage:
        return Stage("AIS", num_chains, partial(annealed, num_chains=num_chains), promising)

    def wide(num_starts: int) -> Stage:
        def run(p: Posteriors, proposal: Proposal) -> tuple[Proposal, Tensor]:
            return sample(p, wide_search(p, num_starts, proposal), K)

        return Stage("search", K, run, lambda evidence, proposal: proposal.incomplete)

    K = max(num_samples, FEWEST)
    return [
        *(wide(n * num_starts) for n in REPEATED),
        *(more("more samples", n * K) for n in (2, 5, 20)),
        add(5 * K),
        hmc(5 * K, 8, 50, 100),
        more("HMC", 20 * K),
        hmc(20 * K, 16, 100, 200, NUM_COMPONENTS),
        # few chains have a larger standard error than the draws before: only for estimates that are not reliable
        anneal(NUM_ANNEALED, lambda evidence, proposal: evidence.unreliable),
        anneal(
            2 * NUM_ANNEALED,
            lambda evidence, proposal: evidence.unreliable & ~proposal.incomplete & would_do(evidence, 2),
        ),
    ]


def would_do(evidence: LogEvidence, factor: Tensor | float) -> Tensor:
    """Return whether the weights promise that `factor` times as many of them are enough, `[N]`."""
    return (evidence.ess * factor >= 1.2 * MIN_ESS) & ~(evidence.pareto_k > LARGEST)


def sample(p: Posteriors, proposal: Proposal, num_samples: int) -> tuple[Proposal, Tensor]:
    """Draw from a proposal, and fit its shares to the draws for the next step."""
    u, log_w = proposal.draw(p, num_samples)
    return replace(proposal.reweighted(u, log_w), rounded=is_rounded(p, u, log_w)), log_w


def search(p: Posteriors, num_starts: int, max_modes: int, guide_weight: float) -> Proposal:
    """Find modes from several starts, and fit a Student-t to each.

    In few dimensions, a share of the prior is added: it shows modes that no start found. The search is incomplete if it
    has found as many modes as are kept, or several of which a single start found one that matters. In few dimensions,
    where a wide search is quick, it is also incomplete if there are several modes, or if most starts from the prior led
    elsewhere.
    """
    found = find_modes(p, num_starts, max_modes, 25)
    incomplete = (found.num_found >= max_modes) | ((found.num_found > 1) & (found.unseen > MATTERS))
    if p.latents.dim <= FEW_DIM:
        incomplete |= (found.num_found > 1) | (found.num_led < num_starts // 4)
    return _polished(p, found, guide_weight, incomplete)


def wide_search(p: Posteriors, num_starts: int, proposal: Proposal) -> Proposal:
    """Search from many more starts, nearly all from the prior, and keep all modes that more than one start found.

    It also starts at the best modes of the last proposal, so that it does not lose them. The search is complete if
    another start is unlikely to find a new mode. In few dimensions, enough starts must have led to modes that matter to
    tell.
    """
    num_starts *= WIDE if p.latents.dim <= FEW_DIM else WIDE // 2
    enough = FEWEST_LED if p.latents.dim <= FEW_DIM else 0
    best = proposal.q.top(NUM_KNOWN).loc
    known = torch.cat([best, best[:1].expand(NUM_KNOWN - len(best), *best.shape[1:])])  # of one shape, for graphs
    found = []
    for index in torch.arange(len(p), device=p.x.device).split(WIDE_AT_ONCE):
        part = p.rows(index)
        f = find_modes(part, num_starts, num_starts // 2, 25, num_starts - 4, known[:, index])
        found.append(_polished(part, f, proposal.guide_weight, (f.unseen > UNSEEN) | (f.num_led < enough)))
    return Proposal.cat(found)


def search_until_complete(
    p: Posteriors, num_starts: int, max_modes: int, guide_weight: float
) -> Iterator[tuple[Tensor, Proposal]]:
    """Search once, and again more widely where modes may be missing, as the ladder does.

    Yields:
        The datapoints whose last search this was, and their proposals.
    """
    index, proposal = torch.arange(len(p), device=p.x.device), search(p, num_starts, max_modes, guide_weight)
    for factor in REPEATED:
        again = proposal.incomplete
        if not again.all():
            yield index[~again], proposal.rows(~again)
        if not again.any():
            return
        index = index[again]
        proposal = wide_search(p.rows(index), factor * num_starts, proposal.rows(again))
    yield index, proposal


def _polished(p: Posteriors, found: Search, guide_weight: float, incomplete: Tensor) -> Proposal:
    proposal = Proposal(polish(p, found.q), guide_weight, found.gain, incomplete)
    return with_prior(proposal) if p.latents.dim <= FEW_DIM else proposal


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


def annealed(p: Posteriors, proposal: Proposal, num_chains: int) -> tuple[Proposal, Tensor]:
    """Anneal chains from the mixture and the prior to the posterior: each gives a weight, see `AIS`.

    In many dimensions an estimate may then be reliable although the search was incomplete: modes that matter rarely
    escape both, and a search that converges to many ends of little weight is never complete.
    """
    ais = AIS(num_chains, num_temperatures=50)
    start = Start.at(proposal.q.top(NUM_COMPONENTS), proposal.q.largest())
    prior = replace(start, draw=p.draw_prior, evaluate=partial(p.value_and_grad_of, p.prior))
    start = start.mixed(prior, FROM_PRIOR)
    log_w, _, _ = ais.log_weights(start, p.value_and_grad, len(p), lambda pairs: None)
    return replace(proposal, incomplete=proposal.incomplete & (p.latents.dim <= FEW_DIM)), log_w
