"""The result of an estimator of log p(x), and its computation from a stream of log-weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.marginal import to_arviz
from pyro_vae.marginal.draws import Draws
from pyro_vae.marginal.pareto import FEW, LARGEST, pareto_k, tail_length, threshold
from pyro_vae.programs.log_weights import joined

MIN_ESS = 10
"""Smallest effective sample size of a reliable estimate."""

STAGES = ("exact", "quadrature", "search", "more samples", "HMC", "AIS", "guide")
"""How `auto` makes an estimate: the stage after which it stopped for a datapoint."""

PER_DATAPOINT = ("log_px", "se", "ess", "pareto_k", "elbo", "reliable", "stage")
"""Attributes of `LogEvidence` with a value for each datapoint; the last two may be None."""


def criterion(k_threshold: float | None, judged: bool = False) -> str:
    """List the checks that an unreliable estimate fails.

    Args:
        k_threshold: None if there is no Pareto k.
        judged: whether the estimator decides (see `judge`), for each number of samples.
    """
    if judged:
        return "Pareto k, effective sample size, agreement of halves"
    ess = f"effective sample size < {MIN_ESS}"
    return ess if k_threshold is None else f"Pareto k > {k_threshold:.2f} or {ess}"


def doubt(num_samples: int, k_threshold: float | None) -> str:
    """Describe the error of unreliable estimates from K samples. `k_threshold` is None if there is no Pareto k."""
    if num_samples >= FEW:
        return "likely too low"
    return "may be too low" + ("" if k_threshold is None else f" (Pareto k is rough with fewer than {FEW} samples)")


@dataclass(frozen=True)
class LogEvidence:
    """Estimates of log p(x) per datapoint, in nats.

    Attributes:
        log_px: the estimates, `[N]`.
        se: standard error of `log_px` over the estimator's own noise (delta method), `[N]`; NaN for K = 1.
        ess: effective sample size (Σw)² / Σw², `[N]`, between 1 and K.
        pareto_k: tail shape of the weights (PSIS), `[N]`. Above `k_threshold`, do not rely on `log_px` and `se`. NaN if
            K is below 21, which is too few samples, or if latents are discrete, since few distinct weights have no
            tail. It is rough for K below 200: some good estimates are then called unreliable.
        elbo: evidence lower bound of the guide, `[N]`.
        num_samples: K.
        curve: estimates from the first K' < K of these samples, for each requested K'.
        extra: further results of the estimator by name, each `[N]`.
        tail: logs of the largest normalized weights in descending order, `[M, N]`, if kept.
        is_bound: whether `log_px` is a mean of log-weights, the ELBO, whose `se` does not depend on the weights' tail.
        reliable: whether each estimate is reliable, `[N]`, if the estimator decides; else see `unreliable`.
        stage: how each estimate was made, `[N]`, as indices of `STAGES`, if the estimator has several ways.
        draws: the draws and their log-weights, if they are kept (`keep_draws=True` of `importance` and `refined`).
    """

    log_px: Tensor
    se: Tensor
    ess: Tensor
    pareto_k: Tensor
    elbo: Tensor
    num_samples: int
    curve: tuple[LogEvidence, ...] = ()
    extra: dict[str, Tensor] = field(default_factory=dict)
    tail: Tensor | None = None
    is_bound: bool = False
    reliable: Tensor | None = None
    stage: Tensor | None = None
    draws: Draws | None = None

    @property
    def k_threshold(self) -> float | None:
        """The Pareto k above which an estimate is unreliable (`pareto.threshold`); None if no datapoint has a k.

        If the estimator decides, estimates may come from different numbers of samples: then it is that of many.
        """
        if not self.pareto_k.isfinite().any():
            return None
        return threshold(self.num_samples) if self.reliable is None else LARGEST

    @property
    def criterion(self) -> str:
        """The checks that an unreliable one of these estimates fails, in words."""
        return criterion(self.k_threshold, judged=self.reliable is not None)

    @property
    def unreliable(self) -> Tensor:
        """Whether each estimate is unreliable, `[N]`: Pareto k > `k_threshold`, ESS < 10 (not of ELBOs), or not finite.

        Without a Pareto k, only the effective sample size tells. Then consider all datapoints together: a heavy tail
        that the samples of one datapoint miss shows in others. A single datapoint can pass by chance: with K = 16
        weights of k = 0.7, 44 % do.
        """
        if self.reliable is not None:
            return ~self.reliable
        poor = (self.pareto_k > threshold(self.num_samples)) | (self.ess < MIN_ESS)
        return ~self.log_px.isfinite() | (poor & (not self.is_bound))

    @property
    def stages(self) -> list[str] | None:
        """The name of each datapoint's stage; None if the estimator has only one way to make estimates."""
        return None if self.stage is None else [STAGES[i] for i in self.stage.tolist()]

    @property
    def status(self) -> list[str]:
        """`exact` (closed form), `reliable` or `unreliable` for each datapoint."""
        exact = (self.se == 0) & self.ess.isinf()
        if self.stage is not None:  # quadrature converges to numerical precision, but only around the modes it knows
            exact &= self.stage != STAGES.index("quadrature")
        pairs = zip(exact.tolist(), self.unreliable.tolist(), strict=True)
        return [
            "exact" if is_exact else "unreliable" if is_unreliable else "reliable" for is_exact, is_unreliable in pairs
        ]

    def __repr__(self) -> str:
        """Return a line with means over all datapoints."""
        return (
            f"LogEvidence(N={len(self.log_px)}, K={self.num_samples}, log_px={self.log_px.mean():.3f}, "
            f"elbo={self.elbo.mean():.3f}, unreliable={self.unreliable.double().mean():.1%})"
        )

    def cpu(self) -> LogEvidence:
        """Return a copy in the CPU's memory."""
        values: dict[str, Any] = {name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor)}
        curve = tuple(point.cpu() for point in self.curve)
        return replace(self, **values, curve=curve, extra={name: value.cpu() for name, value in self.extra.items()})

    def with_integrals(self, converged: Tensor, value: Tensor) -> LogEvidence:
        """Return a copy that has the `value` of an integral where it `converged`, both `[N]`."""
        zero = torch.zeros_like(self.se)
        parts = {"log_px": value, "se": zero, "ess": zero + math.inf, "pareto_k": zero - math.inf}
        changed: dict[str, Any] = {k: torch.where(converged, new, getattr(self, k)) for k, new in parts.items()}
        extra = self.extra | {"log_px_lower": torch.where(converged, value, self.extra["log_px_lower"])}
        return replace(self, **changed, extra=extra, reliable=~self.unreliable | converged)

    def rows(self, index: Tensor) -> LogEvidence:
        """Return the estimates of some of the datapoints, without their curve, tail and draws."""
        return self._per_datapoint(lambda value, _: value[index], self)

    def updated(self, index: Tensor, other: LogEvidence) -> LogEvidence:
        """Return a copy in which the datapoints in `index` have the estimates of `other`."""
        return self._per_datapoint(lambda old, new: old.index_copy(0, index, new.to(old)), other)

    def _per_datapoint(self, fn: Callable[[Tensor, Tensor], Tensor], other: LogEvidence) -> LogEvidence:
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in PER_DATAPOINT}
        values: dict[str, Any] = {name: fn(*pair) for name, pair in pairs.items() if pair[0] is not None}
        extra = {name: fn(value, other.extra[name]) for name, value in self.extra.items()}
        return replace(self, **values, extra=extra, curve=(), tail=None, draws=None)

    def unless(self, doubtful: Tensor) -> LogEvidence:
        """Return a copy whose estimates are also unreliable where they are `doubtful` `[N]`."""
        return replace(self, reliable=~(self.unreliable | doubtful))

    def without_tail(self) -> LogEvidence:
        """Return a copy without the diagnostics of the weights' tail."""
        curve = tuple(point.without_tail() for point in self.curve)
        return replace(self, pareto_k=torch.full_like(self.pareto_k, math.nan), tail=None, curve=curve)

    @classmethod
    def cat(cls, parts: Sequence[LogEvidence]) -> LogEvidence:
        """Concatenate the evidence of several sets of datapoints, each from the same number of samples."""
        first = parts[0]
        values: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in PER_DATAPOINT
            if getattr(first, name) is not None
        }
        curve = tuple(cls.cat(points) for points in zip(*(part.curve for part in parts), strict=True))
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in first.extra}
        tails = [part.tail for part in parts if part.tail is not None]
        tail = torch.cat(tails, dim=1) if len(tails) == len(parts) else None
        kept = [part.draws for part in parts if part.draws is not None]
        draws = Draws.cat(kept) if len(kept) == len(parts) else None
        return replace(first, **values, curve=curve, extra=extra, tail=tail, draws=draws)

    def to_arviz(self, num_draws: int = 1000, seed: int = 0) -> Any:
        """Return ArviZ's `InferenceData`, or a `DataTree` since ArviZ 1.0; `to_arviz.inference_data` lists its groups.

        Its `posterior` has `num_draws` draws, resampled from those that `importance` and `refined` keep with
        `keep_draws=True`; other estimates have no draws, and the object no posterior.

        Raises:
            BadInput: if ArviZ is not installed, or `num_draws` is not a positive integer.
        """
        names = ("log_px", "se", "ess", "pareto_k", "elbo", "unreliable")
        numbers = {name: getattr(self, name) for name in names} | self.extra
        about = {"num_samples": self.num_samples, "unreliable_if": self.criterion}
        z = {} if self.draws is None else self.draws.posterior(num_draws, seed)
        log_weights = None if self.draws is None else self.draws.log_weights
        return to_arviz.inference_data(numbers, log_weights, z, about)

    def to_elpd(self) -> Any:
        """Return log p(x) of each datapoint as ArviZ's `ELPDData` (`to_arviz.elpd`), for its `compare` and `plot_khat`.

        Raises:
            BadInput: if ArviZ is not installed.
        """
        good_k = LARGEST if self.k_threshold is None else self.k_threshold
        return to_arviz.elpd(self.log_px, self.pareto_k, self.num_samples, good_k, bool(self.unreliable.any()))


def sample_sizes(num_samples: object) -> tuple[int, ...]:
    """Return K, or the K' < … < K of a curve, in ascending order.

    Raises:
        BadInput: if one is not a positive integer.
    """
    if isinstance(num_samples, Sequence) and not isinstance(num_samples, str) and num_samples:
        return tuple(sorted({positive_int("num_samples", K) for K in num_samples}))
    return (positive_int("num_samples", num_samples),)


def accumulate(
    blocks: Iterable[Tensor], sizes: Sequence[int], reduce: Callable[[Accumulator], LogEvidence]
) -> LogEvidence:
    """Reduce blocks of float64 log-weights `[k, n]` to evidence, from all of them and from the first of each size."""
    sums: list[Accumulator] = []
    done = 0
    for log_w in joined(blocks):
        sums = sums or [Accumulator(K, log_w.shape[1], log_w.device) for K in sizes]
        for part in sums:
            if done < part.num_samples:
                part.add(log_w[: part.num_samples - done])
        done += len(log_w)
    *curve, evidence = (reduce(part) for part in sums)
    return replace(evidence, curve=tuple(curve))


class Accumulator:
    """Accumulates log-space sums over the samples of `n` datapoints, in float64, with O(n √K) memory.

    Args:
        num_samples: K, the total number of samples.
        n: number of datapoints.
        device: where the weights are.
    """

    def __init__(self, num_samples: int, n: int, device: torch.device) -> None:
        self.num_samples = num_samples
        empty = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
        self.log_sum, self.log_sum_squares = empty, empty
        self.sum_log = torch.zeros_like(empty)
        self.sum_squared_log = torch.zeros_like(empty)
        self.first: Tensor | None = None
        self.tail = empty.new_empty((0, n))

    def add(self, log_w: Tensor) -> None:
        """Add a block of log-weights `[k, n]`."""
        self.log_sum = torch.logaddexp(self.log_sum, torch.logsumexp(log_w, 0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, torch.logsumexp(2 * log_w, 0))
        if self.first is None:  # centre log w, so that its variance keeps its digits
            self.first = log_w[0]
        self.sum_log = self.sum_log + log_w.sum(0)
        self.sum_squared_log = self.sum_squared_log + (log_w - self.first).square().sum(0)
        kept = torch.cat([self.tail, log_w])
        # one more than the tail: the largest weight below it is the threshold
        self.tail = kept.topk(min(len(kept), tail_length(self.num_samples) + 1), dim=0).values

    def ess(self) -> Tensor:
        """Return the effective sample size (Σw)² / Σw², `[n]`."""
        return (2 * self.log_sum - self.log_sum_squares).exp().clamp(1, self.num_samples)

    def log_mean(self) -> LogEvidence:
        """Return log (1/K) Σ w with its diagnostics.

        The standard error is that of the delta method, sd(w) / (√K mean(w)) = √((K/ESS − 1) / (K − 1)).
        """
        K, ess = self.num_samples, self.ess()
        se = ((K / ess - 1).clamp_min(0) / (K - 1)).sqrt() if K > 1 else torch.full_like(ess, math.nan)
        return LogEvidence(
            log_px=self.log_sum - math.log(K),
            se=se,
            ess=ess,
            pareto_k=pareto_k(self.tail, K),
            elbo=self.sum_log / K,
            num_samples=K,
            tail=self.tail - self.log_sum,
        )

    def mean_log(self) -> LogEvidence:
        """Return (1/K) Σ log w, the ELBO, in place of log p(x)."""
        K, evidence = self.num_samples, self.log_mean()
        assert self.first is not None
        variance = self.sum_squared_log / K - (evidence.elbo - self.first).square()
        se = (variance.clamp_min(0) / (K - 1)).sqrt() if K > 1 else torch.full_like(variance, math.nan)
        return LogEvidence(evidence.elbo, se, evidence.ess, evidence.pareto_k, evidence.elbo, K, is_bound=True)
