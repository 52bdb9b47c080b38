"""Lower and upper bounds on log p(x) of real data: importance sampling, and draws of Markov chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, positive_int, share, true_false_auto
from pyro_vae.marginal.chains import Chains, fit, run_chains
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import GradientEstimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate
from pyro_vae.marginal.ladder import search_until_complete
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import BLOCK, Posteriors
from pyro_vae.marginal.proposal import Proposal, is_rounded
from pyro_vae.marginal.rhat import split_rhat
from pyro_vae.programs.memory import chunk_option, padded
from pyro_vae.programs.progress import Shares
from pyro_vae.programs.trace import Program

MAX_RHAT = 1.05
"""R̂ from which on chains are not taken to have converged."""

MIN_DRAWS = 16
"""Fewest transitions of a chain, for R̂ and the upper bound."""

PER_CHAIN = 10
"""Posterior draws that each chain gives to the upper bound, if it has so many."""

TARGET_SE = 0.05
"""Standard error of a lower bound, in nats, above which longer chains improve the proposal."""

LONGER = 4
"""Factor by which chains are longer the second time."""

OVERDISPERSION = 2.0
"""Spread of the chains' starts around a mode, in standard deviations of its Laplace approximation."""

CHAIN_NUMBERS = 2**24
"""Largest number of coordinates of all chains' draws that are kept at once: 64 MiB in float32."""


class Sandwich(GradientEstimator):
    """Bounds log p(x) of each datapoint from below and from above, in expectation.

    With importance weights w_k of K draws from a proposal q and a draw z* from the posterior, with weight w(z*),

        E log (1/K) (w_1 + … + w_K)  ≤  log p(x)  ≤  E log (1/K) (w(z*) + w_1 + … + w_{K−1}).

    The lower bound is the IWAE's (Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519), the upper one
    is that of Sobolev & Vetrov (2019), Importance weighted hierarchical variational inference,
    https://arxiv.org/abs/1905.03290; Brekelmans et al. (2022), https://arxiv.org/abs/2303.06992, derive both. Both use
    the same K draws, so that their difference has less noise than either of them: where it is smaller than the standard
    errors, these tell how far log p(x) may be from the bounds.

    As in `auto`, several starts lead to the modes of the posterior. HMC chains start around all of them; after each
    transition they may jump to a draw from the Student-t mixture of the modes. q consists of this mixture, another one
    fitted to the first half of the chains, and a share of the guide. z* comes from the second half. Datapoints that are
    not certified, or whose lower bound has a standard error above 0.05, get chains of four times the length, which jump
    to draws from q.

    `log_px` and `se` describe the lower bound. `extra` holds, for each datapoint, `log_px_upper` with its standard
    error `log_px_upper_se`; `gap`, the difference of the bounds; `rhat`, the largest R̂ over the dimensions;
    `certified`, 1 where R̂ is below 1.05, the chains visit each other's modes (see `mix`), the search found no more
    modes than are kept, rounding does not change the weights (see `proposal.is_rounded`) and the estimate is reliable,
    else 0; `num_modes`; and `struski_upper`, log X + Y / X − 1 of two independent estimates X and Y of p(x), an upper
    bound in expectation that needs no posterior draws (Struski et al. 2023, https://arxiv.org/abs/2206.09453). It is
    noisy: use its mean over many datapoints, whose standard error is that of the mean of `log_px`.

    An estimate is reliable if its weights are (see `LogEvidence.unreliable`), or if the other conditions of `certified`
    hold and the gap is below 0.05: posterior draws in a part that the weights miss would widen it.

    The upper bound needs draws from the posterior, and chains are known to give them only in the limit. `certified` is
    therefore conditional: it excludes that the chains disagree, not that all of them miss a mode that no start found.
    `certify=true` of `pyro_vae.evaluate` tests estimators on data with exact posterior draws.

    Args:
        num_samples: K, draws from q.
        num_starts: starts of the search for modes, half of them drawn from the prior.
        max_modes: largest number of modes that are kept.
        guide_weight: share of q's draws that come from the guide, in [0, 1).
        num_chains: number of chains, at least `max_modes`.
        num_warmup: transitions of each chain that adapt its step size and are discarded.
        num_draws: transitions of each chain that follow.
        chunk_size: pairs (sample, datapoint) in memory at once; `auto` uses as many as fit into the cache.
        compile: True, False or `auto`, see `Estimator`.

    Raises:
        BadInput: if an argument is out of range; when called, if the model's latents are discrete or masked.

    Example:
        >>> bounds = Sandwich()(vae.model, vae.guide, x[:2])                        # doctest: +SKIP
        >>> bounds.log_px, bounds.extra["log_px_upper"], bounds.extra["certified"]  # doctest: +SKIP
    """

    name = "sandwich"

    def __init__(
        self,
        num_samples: int = 5000,
        num_starts: int = 12,
        max_modes: int = 4,
        guide_weight: float = 0.1,
        num_chains: int = 8,
        num_warmup: int = 50,
        num_draws: int = 150,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
    ) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        if self.num_samples < 2:
            raise BadInput(f"num_samples={num_samples} must be at least 2")
        self.num_starts = positive_int("num_starts", num_starts)
        self.max_modes = positive_int("max_modes", max_modes)
        self.guide_weight = share("guide_weight", guide_weight)
        self.num_chains = positive_int("num_chains", num_chains)
        if self.num_chains < (fewest := max(2, self.max_modes)):
            raise BadInput(f"num_chains={num_chains} must be at least {fewest}, one for each of max_modes={max_modes}")
        self.num_warmup = positive_int("num_warmup", num_warmup)
        self.num_draws = positive_int("num_draws", num_draws)
        if self.num_draws < MIN_DRAWS:
            raise BadInput(f"num_draws={num_draws} must be at least {MIN_DRAWS}")
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)

    def advice(self, discrete: bool = False) -> str:
        """Advise longer chains, to which the proposal is fitted, or more samples."""
        return f"set estimator.num_draws={4 * self.num_draws}, or estimator.num_samples={10 * self.num_samples}"

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Bound log p(x) for x `[N, ...]`; `progress` counts `num_samples` for each datapoint."""
        p = Posteriors.of(model, guide, x, y, self.compile, self.chunk_size)
        n = min(p.at_once, max(1, CHAIN_NUMBERS // (self.num_draws * self.num_chains * p.latents.dim)))
        parts = []
        for index in torch.arange(len(p), device=x.device).split(n):
            tick = Shares(progress, len(index) * self.num_samples, self.num_warmup + self.num_draws)
            parts.append(self._bounds(p.rows(index), tick))
        return replace(LogEvidence.cat(parts), elbo=guide_elbo(model, guide, x, y))

    def _bounds(self, p: Posteriors, tick: Callable[[], Any]) -> LogEvidence:
        """Bound log p(x), with the datapoints in groups by the search that found their modes."""
        parts, order = [], []
        for index, modes in search_until_complete(p, self.num_starts, self.max_modes, self.guide_weight):
            parts.append(self._from_modes(p.rows(index), modes, tick))
            order.append(index)
        return LogEvidence.cat(parts).rows(torch.cat(order).argsort())

    def _from_modes(self, p: Posteriors, modes: Proposal, tick: Callable[[], Any] = lambda: None) -> LogEvidence:
        """Bound log p(x), once more with longer chains where the first ones do not certify it or q is poor."""
        found, fitted = self._from_chains(p, modes, self.chains(p, modes, modes.q, self.num_draws, tick))
        again = ((found.extra["certified"] == 0) | (found.se > TARGET_SE)).nonzero().squeeze(1)
        if len(again):
            rows = padded(again)
            p, modes, q = p.rows(rows), modes.rows(rows), fitted.q.rows(rows)
            longer, _ = self._from_chains(p, modes, self.chains(p, modes, q, LONGER * self.num_draws))
            found = found.updated(again, longer.rows(torch.arange(len(again), device=again.device)))
        return found

    def _from_chains(self, p: Posteriors, proposal: Proposal, run: Chains) -> tuple[LogEvidence, Proposal]:
        """Return the bounds that chains give, and the proposal fitted to them."""
        first, second = run.draws.tensor_split(2)
        fitted = fit(p, proposal, first)
        u, log_w = fitted.draw(p, self.num_samples)
        each = min(PER_CHAIN, len(second))
        draws = second[[len(second) * (i + 1) // each - 1 for i in range(each)]].flatten(0, 1)
        posterior = torch.cat([fitted.log_weight(p, part) for part in draws.split(BLOCK)])
        upper = iw_eubo(posterior, log_w[:-1]).reshape(each, self.num_chains, -1).mean(0)
        lower = accumulate([log_w], [self.num_samples], Accumulator.log_mean)
        rhat = split_rhat(run.draws)
        gap = upper.mean(0) - lower.log_px
        agree = (rhat < MAX_RHAT) & mix(run.modes(proposal.q), run.start, proposal.num_modes) & ~proposal.incomplete
        if (rounded := is_rounded(p, u, log_w)) is not None:
            agree &= ~rounded
        # draws from the posterior would widen the gap if the weights missed a part of it, whatever their Pareto k
        reliable = ~lower.unreliable | (agree & (gap < TARGET_SE))
        extra = {
            "log_px_upper": upper.mean(0),
            "log_px_upper_se": (lower.se.square() + upper.var(0) / self.num_chains).sqrt(),
            "gap": gap,
            "rhat": rhat,
            "certified": (agree & reliable).double(),
            "num_modes": proposal.num_modes.double(),
            "struski_upper": struski(log_w),
        }
        return replace(lower, extra=extra, tail=None, reliable=reliable), fitted

    def chains(
        self, p: Posteriors, modes: Proposal, q: Mixture, num_draws: int, tick: Callable[[], Any] = lambda: None
    ) -> Chains:
        """Run Markov chains that start around the modes, each in turn, and jump to draws from q."""
        return run_chains(p, modes, q, self.num_chains, self.num_warmup, num_draws, OVERDISPERSION, tick)


def mix(modes: Tensor, start: Tensor, num_modes: Tensor) -> Tensor:
    """Return for each datapoint whether the chains visit each other's modes, `[N]`.

    They do if a chain starts at every mode, and if each mode that the second half of any chain visits is also visited
    by a chain that started at another mode. A mode that all chains have left holds too little of the posterior to
    matter. A single mode needs no visits.

    Args:
        modes: where each draw of the second half is, `[T, C, N]`.
        start: where the chains started, `[C, N]`.
        num_modes: number of modes, `[N]`.
    """
    mixed = torch.ones_like(num_modes, dtype=torch.bool)
    for m in range(int(num_modes.max())):
        here = (modes == m).any(0)
        is_start = start == m
        met = is_start.any(0) & (~here.any(0) | (here & ~is_start).any(0))
        mixed &= met | (num_modes <= m)
    return mixed | (num_modes == 1)


def iw_eubo(posterior: Tensor, log_w: Tensor) -> Tensor:
    """Compute log (1/K) (w(z*) + w_1 + … + w_{K−1}), which is at least log p(x) in expectation if z* ~ p(z | x).

    Args:
        posterior: log w(z*) of M posterior draws, `[M, N]`.
        log_w: log-weights of K − 1 draws from the proposal, `[K − 1, N]`, independent of z*.

    Returns:
        The upper bound from each posterior draw, `[M, N]`.
    """
    return torch.logaddexp(posterior, log_w.logsumexp(0)) - math.log(len(log_w) + 1)


def struski(log_w: Tensor) -> Tensor:
    """Compute log X + Y / X − 1, the mean of both orders, for the mean weights X and Y of two halves: `[N]`."""
    x, y = (half.logsumexp(0) - math.log(len(half)) for half in log_w.tensor_split(2))
    return 0.5 * (x + (y - x).exp() + y + (x - y).exp()) - 1
