"""log p(x) with as much work as each datapoint needs: the default estimator."""

from __future__ import annotations

import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import compiled
from pyro_vae.errors import BadInput, Incompatible, datapoints, positive, positive_int, share, true_false_auto
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.exact import Exact
from pyro_vae.marginal.judge import judge
from pyro_vae.marginal.ladder import Stage, ladder, sample, search
from pyro_vae.marginal.ledger import Ledger, Waiting, without_work
from pyro_vae.marginal.posterior import BLOCK, Posteriors
from pyro_vae.marginal.prior import prior_of
from pyro_vae.marginal.proposal import Proposal
from pyro_vae.marginal.quadrature import MAX_DIM, quadrature
from pyro_vae.programs.density import is_discrete
from pyro_vae.programs.log_weights import gathered, log_weights, stream
from pyro_vae.programs.memory import chunk_option, padded, pairs_at_once
from pyro_vae.programs.progress import progress as show_progress
from pyro_vae.programs.random_state import seeded
from pyro_vae.programs.time_limit import OutOfTime, time_limit
from pyro_vae.programs.trace import Program

FEWEST_OF_PRIOR = 10
"""Effective sample size from which draws from the prior may contradict an estimate."""

NUM_OF_PRIOR = 200
"""Draws from the prior that may contradict a search in many dimensions."""

BY_CHANCE = 5.0
"""Nats by which an unbiased p̂ exceeds p(x) in at most 0.7 % of cases, by Markov's inequality."""

NUM_AT_FIRST = 10
"""Draws from the guide that give the ELBO, and an estimate where the time is over before there is a better one."""


ROUNDED = (
    "the latents of %s are so close to a bound of their support that rounding changes the density, and log p(x) is "
    "likely too low: use %sa prior with less mass at its bounds"
)

log = logging.getLogger(__name__)


class Auto(Estimator):
    """Estimates log p(x) in stages; each works on the datapoints whose estimates are not yet good enough.

    1. `exact`: the closed form of linear-Gaussian models.
    2. `search`: modes are found from several starts, half of them drawn from the prior. A Student-t is fitted to each
       by its curvature and some gradient steps. Importance sampling from their mixture, of which a share is the
       guide, gives the estimate. Up to three dimensions are also integrated (`quadrature`), which is used where it
       converges and agrees. Posteriors of several modes are searched again, from 4 to 16 times as many starts, if some
       may be missing, or if draws from the prior give a higher estimate.
    3. `more samples`: 2, 5 or 20 times as many draws, where the weights tell that they will do; up to 20 dimensions,
       else 5 times as many after components were added where the weights were largest (`incremental`).
    4. `HMC`: another mixture is fitted to Markov chains, which start at all modes and jump between them, first short
       ones and then longer ones. Draws come from both mixtures, the guide and the prior.
    5. `AIS`: chains are annealed from the mixture, and as many from the prior, to the posterior.

    Models that these stages cannot handle, with latents that are discrete or whose bounds depend on other latents, are
    estimated by importance sampling from the guide (stage `guide`) with 1, 5 and 20 times `num_samples`.

    An estimate is good enough if it is reliable (see `judge`) and its standard error is at most `target_se`. Each comes
    from new draws of the stage's final proposal, so that p̂(x) is unbiased. `elbo` is the guide's. `stage` and `status`
    tell how an estimate was made, and whether to rely on it: not on one below an earlier one's confidence bound, nor
    after an incomplete search. No diagnostic sees a mode that none of the starts found. `extra` holds, for each
    datapoint:

    - `log_px_lower`: a 95 % lower confidence bound that assumes nothing about the weights; the estimate itself in the
      stages `exact` and `quadrature`, which have no noise;
    - `num_modes`: the number of modes kept, 0 without a search;
    - `gain`: evidence of all modes minus that of the mode found from the guide's mean, in nats, by Laplace's
      approximation, which shows whether more than one start is needed;
    - `num_draws`: from how many draws the estimate comes, 0 in the stages `exact` and `quadrature`;
    - `seconds`: the time spent on it.

    Args:
        num_samples: K, draws per datapoint in the first stage.
        num_starts: starts of the search.
        max_modes: largest number of modes that the first search keeps.
        target_se: standard error, in nats, above which more work is done.
        guide_weight: share of draws from the guide, in [0, 1).
        max_seconds: time limit; datapoints that are not good enough by then keep their last estimate, at first one from
            10 draws from the guide, which are made in any case. None: no limit.
        chunk_size: pairs (sample, datapoint) in memory at once; `auto` uses as many as fit into the cache.
        compile: True, False or `auto`, see `Estimator`.

    Raises:
        BadInput: if an argument is out of range.

    Example:
        >>> evidence = Auto(max_seconds=10)(vae.model, vae.guide, x)
        >>> evidence.log_px.shape, set(evidence.status) <= {"exact", "reliable", "unreliable"}
        (torch.Size([20]), True)
    """

    name = "auto"

    def __init__(
        self,
        num_samples: int = 1000,
        num_starts: int = 12,
        max_modes: int = 4,
        target_se: float = 0.05,
        guide_weight: float = 0.1,
        max_seconds: float | None = None,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
    ) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        self.num_starts = positive_int("num_starts", num_starts)
        self.max_modes = positive_int("max_modes", max_modes)
        self.target_se = positive("target_se", target_se)
        self.guide_weight = share("guide_weight", guide_weight)
        self.max_seconds = None if max_seconds is None else positive("max_seconds", max_seconds)
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)

    def advice(self, discrete: bool = False) -> str:
        """Advise more time if it is limited, else more samples, or more starts."""
        if self.max_seconds is not None:  # more work would leave more datapoints unfinished
            return "set estimator.max_seconds=null"
        more = f"set estimator.num_samples={10 * self.num_samples}"
        return more if discrete else f"set estimator.num_starts={2 * self.num_starts}, or {more.removeprefix('set ')}"

    def bar(self, x: Tensor) -> AbstractContextManager[Progress]:
        """Show no bar for the whole: each stage has one."""
        return nullcontext(lambda pairs: None)

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`; `progress` counts the first stage."""
        end = math.inf if self.max_seconds is None else time.monotonic() + self.max_seconds
        exact = Exact(self.num_samples)
        with suppress(BadInput, OutOfTime), time_limit(end):
            started = time.monotonic()
            exact.check(model, guide, x, y)
            found = exact.estimate(model, guide, x, y, progress)  # rejects models that only some rows of x show as such
            return without_work(found, time.monotonic() - started)
        ledger = self._at_first(model, guide, x, y)
        with suppress(OutOfTime), time_limit(end):
            try:
                p = Posteriors.of(model, guide, x, y, self.compile, self.chunk_size)
            except Incompatible:
                self._from_guide(ledger, model, guide, x, y, progress)
            else:
                self._climb(ledger, p, progress)
        if ledger.rounded.any():
            log.warning(
                ROUNDED, datapoints(int(ledger.rounded.sum())), "" if x.dtype == torch.float64 else "float64, or "
            )
        return ledger.evidence

    def _at_first(self, model: Program, guide: Program, x: Tensor, y: Tensor | None) -> Ledger:
        """Estimate the ELBO and log p(x) from a few draws from the guide."""
        started, pairs = time.monotonic(), pairs_at_once("auto", model, x, y)
        chunks = stream(model, guide, x, y, num_samples=NUM_AT_FIRST, chunk_size=pairs)
        log_w = gathered(chunks)
        ledger = Ledger.empty(log_w.mean(0), self.num_samples, self.target_se)
        ledger.write(torch.arange(len(x), device=x.device), judge(log_w), "guide", started)
        return ledger

    def _climb(self, ledger: Ledger, p: Posteriors, progress: Progress) -> None:
        """Search the modes of all posteriors, then go from step to step with those that are not done."""
        n = p.at_once
        active, waiting = torch.arange(len(p), device=p.x.device), []
        with show_progress(f"searching the modes of {datapoints(len(p))}", len(p), "datapoint") as tick:
            for index in active.split(n):
                waiting += self._search(ledger, p, index)
                progress(len(index) * self.num_samples)
                tick(len(index))
        for stage in ladder(self.num_samples, self.num_starts, self.target_se):
            if not waiting:
                return
            active = torch.cat([index for index, _ in waiting])
            proposals = Proposal.cat([proposal for _, proposal in waiting])
            chosen = stage.promising(ledger.evidence.rows(active), proposals)
            if not chosen.any():
                continue
            rows = torch.arange(len(active), device=active.device)
            waiting = [] if chosen.all() else [(active[~chosen], proposals.rows(rows[~chosen]))]
            count = int(chosen.sum())
            with show_progress(
                f"{stage.name}, K = {stage.num_samples}: {datapoints(count)}", count, "datapoint"
            ) as tick:
                for part in rows[chosen].split(n):
                    waiting += self._step(ledger, p, active[part], proposals.rows(part), stage)
                    tick(len(part))

    def _search(self, ledger: Ledger, p: Posteriors, index: Tensor) -> list[Waiting]:
        started, p = time.monotonic(), p.rows(padded(index))
        proposal = search(p, self.num_starts, self.max_modes, self.guide_weight)
        proposal, log_w = sample(p, proposal, self.num_samples)
        found = judge(log_w)
        if not proposal.prior_weight:  # else its draws would have seen what the search missed
            missed = _below_prior(found, of_prior := _from_prior(p))
            ledger.raise_floor(index, (of_prior.log_px - BY_CHANCE)[: len(index)])
            proposal = replace(proposal, incomplete=proposal.incomplete | missed)
        if p.latents.dim <= MAX_DIM:
            integral, converged = quadrature(p, proposal.q)
            # heavy weights may come from draws that saw more than the search and the grid did: look there first
            found = with_quadrature(found, integral, converged & ~found.unreliable)
        return _unfinished(ledger, index, found, log_w, "search", started, proposal)

    def _step(self, ledger: Ledger, p: Posteriors, index: Tensor, proposal: Proposal, stage: Stage) -> list[Waiting]:
        started = time.monotonic()
        p, proposal = p.rows(padded(index)), proposal.rows(padded(torch.arange(len(index), device=index.device)))
        proposal, log_w = stage.run(p, proposal)
        found = judge(log_w)
        if stage.name == "search":
            proposal = replace(proposal, incomplete=proposal.incomplete | ledger.refutes(padded(index), found))
        if p.latents.dim <= MAX_DIM and stage.name != "AIS":
            found = with_quadrature(found, *quadrature(p, proposal.q))
        return _unfinished(ledger, index, found, log_w, stage.name, started, proposal)

    def _from_guide(
        self, ledger: Ledger, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress
    ) -> None:
        """Estimate log p(x) by importance sampling from the guide, with more samples where it takes them."""
        weigh, pairs = compiled(log_weights, self.compile), pairs_at_once(self.chunk_size, model, x, y)
        active, has_tail = torch.arange(len(x), device=x.device), not is_discrete(guide, x, y)
        chunks = stream(model, prior_of(model), x, y, num_samples=self.num_samples, chunk_size=pairs)
        of_prior = judge(gathered(chunks), has_tail)
        for K in (self.num_samples, 5 * self.num_samples, 20 * self.num_samples):
            unfinished, n = [], max(1, pairs // BLOCK)
            with show_progress(
                f"samples from the guide, K = {K}: {datapoints(len(active))}", len(active), "datapoint"
            ) as tick:
                for index in active.split(n):
                    started, y_part = time.monotonic(), None if y is None else y[index]
                    chunks = stream(model, guide, x[index], y_part, num_samples=K, chunk_size=n * BLOCK, weigh=weigh)
                    found = _unless_missed(judge(gathered(chunks), has_tail), of_prior.rows(index))
                    todo = ledger.write(index, found, "guide", started)
                    unfinished.append(index[todo])
                    progress(len(index) * K if self.num_samples == K else 0)
                    tick(len(index))
            active = torch.cat(unfinished)
            if not len(active):
                return


def with_quadrature(found: LogEvidence, integral: Tensor, converged: Tensor) -> LogEvidence:
    """Use the integrals where they converged and the estimates do not contradict them.

    A grid around one mode can converge and miss another. Draws from the prior see it: they raise the estimate.
    """
    higher = found.log_px - integral
    contradicted = torch.where(found.unreliable, higher, higher.abs()) > 4 * found.se + 0.01
    return found.with_integrals(converged & ~contradicted, integral)


def _unless_missed(found: LogEvidence, of_prior: LogEvidence) -> LogEvidence:
    """Call estimates unreliable that draws from the prior exceed: the guide's draws miss a part of the posterior.

    Weights of discrete latents may all be equal, so that nothing else shows it.
    """
    return found.unless(_below_prior(found, of_prior))


def _below_prior(found: LogEvidence, of_prior: LogEvidence) -> Tensor:
    """Return whether draws from the prior exceed the estimates, `[N]`.

    Few of them may carry all weight (`BY_CHANCE`).
    """
    higher = of_prior.log_px - found.log_px - 4 * (of_prior.se.square() + found.se.square()).sqrt()
    return (higher > 0.01) & (of_prior.ess >= FEWEST_OF_PRIOR) | (of_prior.log_px > found.log_px + BY_CHANCE)


def _from_prior(p: Posteriors) -> LogEvidence:
    """Estimate log p(x) from draws from the prior, without a change of the random state."""
    with seeded(0, p.x):
        u = p.draw_prior(NUM_OF_PRIOR)
    return judge((p.log_prob(u) - p.log_prior(u)).double())


def _unfinished(
    ledger: Ledger, index: Tensor, found: LogEvidence, log_w: Tensor, stage: str, started: float, proposal: Proposal
) -> list[Waiting]:
    """Write the estimates of the datapoints, without what pads them, and return those that are not good enough.

    Later stages would not improve those without a draw with a finite log-weight, e.g. because x holds NaN, nor those
    that are unreliable only because of rounding.
    """
    rows = torch.arange(len(index), device=index.device)
    proposal, found, hopeful = proposal.rows(rows), found.rows(rows), log_w[:, rows].isfinite().any(0)
    if (rounded := proposal.rounded) is not None:
        ledger.rounded[index] = rounded
        hopeful &= found.unreliable | ~rounded
        found = found.unless(rounded)
    todo = ledger.write(index, found, stage, started, proposal) & hopeful
    return [(index[todo], proposal.rows(rows[todo]))] if todo.any() else []
