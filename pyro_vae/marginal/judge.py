"""Whether K importance weights estimate log p(x) reliably."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate
from pyro_vae.marginal.pareto import threshold

MIN_ESS = 100
"""Smallest effective sample size of a reliable estimate."""

NUM_BATCHES = 20
"""Number of independent estimates whose smallest gives the lower confidence bound."""


def judge(log_w: Tensor, has_tail: bool = True) -> LogEvidence:
    """Estimate log p(x) from independent log-weights `[K, N]`, and judge each estimate.

    An estimate is reliable if its Pareto k is at most `pareto.threshold`, its effective sample size is at least 100,
    and the estimates from the first and second half of the weights differ by at most 3 standard errors.

    `extra["log_px_lower"]` is a lower confidence bound: log p(x) is above it with a probability of at least 95 %, for
    any distribution of the weights. Each of M ≤ 20 batches has an unbiased estimate p̂_i, so P(p̂_i ≥ p(x) eᵇ) ≤ e⁻ᵇ
    by Markov's inequality, and P(min_i log p̂_i − b ≥ log p(x)) ≤ e⁻ᴹᵇ = 0.05 for b = log(20) / M (Gogate, Bidyuk &
    Dechter 2007, Studies in lower bounding probability of evidence using the Markov inequality, UAI).

    Args:
        log_w: the log-weights.
        has_tail: False for discrete latents, whose few distinct weights have no Pareto k.
    """
    evidence = accumulate([log_w], [len(log_w)], Accumulator.log_mean)
    evidence = evidence if has_tail else evidence.without_tail()
    halves = log_w.chunk(2) if len(log_w) > 1 else (log_w, log_w)
    first, second = (accumulate([half], [len(half)], Accumulator.log_mean) for half in halves)
    difference = (first.log_px - second.log_px).abs()
    agree = difference <= 3 * (first.se.square() + second.se.square()).sqrt() + 1e-3  # a thousandth of a nat is equal
    usable = evidence.log_px.isfinite() & (evidence.ess >= MIN_ESS)
    reliable = usable & agree & ~(evidence.pareto_k > threshold(len(log_w)))
    M = min(NUM_BATCHES, len(log_w))
    batches = torch.stack([batch.logsumexp(0) - math.log(len(batch)) for batch in log_w.tensor_split(M)])
    lower = batches.amin(0) - math.log(20) / M
    return replace(evidence, reliable=reliable, extra={"log_px_lower": lower}, tail=None)
