"""The summary of estimates over N datapoints, and its table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pyro_vae.errors import datapoints
from pyro_vae.marginal.columns import EXTRA, MEANING, OF_BOUNDS, OF_SEARCHES, OF_WEIGHTS
from pyro_vae.marginal.estimator import Estimator
from pyro_vae.marginal.evidence import STAGES, LogEvidence, criterion, doubt
from pyro_vae.marginal.pareto import FEW, MIN_SAMPLES

OVER_DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "log_px_upper_se": lambda se: se.square().sum().sqrt() / len(se),
    "rhat": Tensor.amax,
}
"""How columns that are not means are summarized over datapoints."""

TOLERATED = 0.01
"""Share of datapoints whose estimates may be unreliable without a warning."""

TOLERATED_OF_FEW = 0.05
"""The same with fewer than `pareto.FEW` samples, where k̂ exceeds its threshold for as many good estimates."""

SHARE_WITH_ERROR = 0.1
"""Share of datapoints whose estimates may be unreliable before their mean has no Monte Carlo error.

The `se` of an unreliable estimate is too small: the estimate is too low by more. With log-normal weights, K = 500 and
N = 500 the mean is too low by 1 standard error where 2 % are flagged, 2 where 12 % are, 5 where 38 % are.
"""


@dataclass(frozen=True)
class CurvePoint:
    """The estimate from the first K' samples.

    Attributes:
        num_samples: K'.
        log_px: mean over datapoints, nats.
        log_px_mc_se: its standard error over the estimator's own noise, nats.
    """

    num_samples: int
    log_px: float | None
    log_px_mc_se: float | None


@dataclass(frozen=True)
class Summary:
    """Estimates of log p(x), summarized over N datapoints. Means are in nats per datapoint.

    A value is None if it is unknown or not finite.

    Attributes:
        elbo: mean evidence lower bound of the guide, nats.
        log_px: mean log p̂(x), nats.
        log_px_se: standard error of that mean over datapoints, sd(log p̂(x_i)) / √N, nats.
        log_px_mc_se: the part of it that more samples would remove, √(Σ se_i²) / N, nats; None if more than
            `SHARE_WITH_ERROR` of the estimates are unreliable.
        estimator: the estimator's name.
        num_samples: K; 0 if log p(x) was not estimated.
        ess_median: median effective sample size, in samples.
        ess_min: smallest effective sample size, in samples.
        pareto_k_max: largest Pareto k, which has no unit.
        pareto_k_threshold: the Pareto k above which an estimate is unreliable; None if there is no Pareto k.
        unreliable: share of datapoints whose estimate is unreliable, between 0 and 1; None for an ELBO.
        num_data: N.
        extra: means over datapoints of what else the estimator reports (`LogEvidence.extra`), by name; see `OVER_DATA`.
        curve: estimates from the first K' of the samples, in ascending order up to K.
        given: `y` if this is log p(x | y) of a conditional model.
        bits_per_dim: −log_px in bits per dimension, where it has that unit.
        stages: share of datapoints whose estimate each stage made, by name, if the estimator has stages.
        simulated: whether the estimator simulated the data.
        judged: whether the estimator decided which estimates are reliable.
        is_bound: whether `log_px` is the ELBO.
    """

    elbo: float | None
    log_px: float | None
    log_px_se: float | None
    log_px_mc_se: float | None
    estimator: str
    num_samples: int
    ess_median: float | None
    ess_min: float | None
    pareto_k_max: float | None
    pareto_k_threshold: float | None
    unreliable: float | None
    num_data: int
    extra: dict[str, float | None] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    given: str | None = None
    bits_per_dim: float | None = None
    stages: dict[str, float] | None = None
    simulated: bool = False
    judged: bool = False
    is_bound: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what results.json and evaluations/*.json hold.

        The values in `extra` are keys beside the others; `curve`, `given`, `bits_per_dim` and `stages` are present only
        if set, and `is_bound` only if it is True.
        """
        content = dict(vars(self))
        extra, *_ = (content.pop(name) for name in ("extra", "simulated", "judged"))
        optional = {name: content.pop(name) for name in ("curve", "given", "bits_per_dim", "stages")}
        optional |= {
            "curve": [vars(point) for point in self.curve] or None,
            "is_bound": content.pop("is_bound") or None,
        }
        return content | extra | {name: value for name, value in optional.items() if value is not None}

    @property
    def lacks_tail(self) -> bool:
        """Whether there is no Pareto k despite enough samples for one, because the latents are discrete."""
        return self.pareto_k_threshold is None and self.num_samples >= MIN_SAMPLES


def summarize(evidence: LogEvidence, estimator: str, simulated: bool = False) -> Summary:
    """Summarize estimates over datapoints.

    Args:
        evidence: the estimates.
        estimator: the estimator's name.
        simulated: whether it simulated the data.

    Example:
        >>> from pyro_vae.marginal import Importance
        >>> summary = summarize(Importance(1000)(vae.model, vae.guide, x), "importance")
        >>> print(table(summary, "test").splitlines()[0])
        test, 20 datapoints, estimator importance, K = 1000 (nats per datapoint)
    """
    N = len(evidence.log_px)
    k = evidence.pareto_k[~evidence.pareto_k.isnan()]
    judged = evidence.num_samples and not evidence.is_bound
    unreliable = _finite(evidence.unreliable.double().mean()) if judged else None
    has_error = unreliable is None or unreliable <= SHARE_WITH_ERROR
    summary = Summary(
        elbo=_finite(evidence.elbo.mean()),
        log_px=_finite(evidence.log_px.mean()),
        log_px_se=_finite(evidence.log_px.std() / math.sqrt(N)) if N > 1 else None,
        log_px_mc_se=_finite(evidence.se.square().sum().sqrt() / N) if has_error else None,
        estimator=estimator,
        num_samples=evidence.num_samples,
        ess_median=_finite(evidence.ess.median()),
        ess_min=_finite(evidence.ess.min()),
        pareto_k_max=_finite(k.max()) if len(k) else None,
        pareto_k_threshold=evidence.k_threshold,
        unreliable=unreliable,
        num_data=N,
        extra=_extra(evidence.extra),
        stages=None if evidence.stages is None else _shares(evidence.stages),
        simulated=simulated,
        judged=evidence.reliable is not None,
        is_bound=evidence.is_bound,
    )
    if not evidence.curve:
        return summary
    points = [*(summarize(point, estimator) for point in evidence.curve), summary]
    curve = tuple(CurvePoint(point.num_samples, point.log_px, point.log_px_mc_se) for point in points)
    return replace(summary, curve=curve)


def table(summary: Summary, split: str, note: str = "") -> str:
    """Format a summary of a data split as a table, one row for each quantity, with a note in its title."""
    title = f"{'simulated' if summary.simulated else split}, {datapoints(summary.num_data)}"
    if summary.num_samples:
        title += f", estimator {summary.estimator}, K = {summary.num_samples}"
    title += f"{note and f': {note}'} (nats per datapoint)"
    rows = []
    for name, value in _columns(summary).items():
        rows.append(_row(name, value, _meaning(name, summary)))
        if name == "unreliable" and summary.stages is not None:
            shares = [f"{stage} {_percent(share)}" for stage, share in summary.stages.items()]
            rows.append(_row("stages", "", f"estimated by {', '.join(shares)}"))
    rows += [
        _row("log_px", point.log_px, f"from the first {_samples(point.num_samples)}{_error(point)}")
        for point in summary.curve[:-1]
    ]
    return "\n".join([title, *rows])


def tolerated(num_samples: int, k_threshold: float | None) -> float:
    """Return the share of datapoints whose estimates from K samples may be unreliable without a warning."""
    return TOLERATED if k_threshold is None or num_samples >= FEW else TOLERATED_OF_FEW


def verdict(summary: Summary, estimator: Estimator) -> str | None:
    """Return a warning with a remedy if more estimates than `tolerated` are unreliable, else None.

    Args:
        summary: of the estimates.
        estimator: the estimator that made them; the remedy depends on its settings.
    """
    share, advice = summary.unreliable, estimator.advice(discrete=summary.lacks_tail)
    if advice is None or share is None or share <= tolerated(summary.num_samples, summary.pareto_k_threshold):
        return None
    too_low = doubt(summary.num_samples, summary.pareto_k_threshold)
    return f"{100 * share:.1f} % of the datapoints' estimates are unreliable, and {too_low}: {advice}"


def number(value: float | None, form: str) -> str:
    """Format a value, or return a dash if it is unknown."""
    return "-" if value is None else format(value, form)


def _finite(value: Tensor) -> float | None:
    """Convert a scalar to a number; None if it is not finite, since JSON has neither NaN nor infinity."""
    return value.item() if value.isfinite() else None


def _extra(values: dict[str, Tensor]) -> dict[str, float | None]:
    """Summarize what else an estimator reports over datapoints."""
    if "num_modes" in values:  # 0 without a search
        searched = values["num_modes"] > 0
        values = values | {name: values[name][searched] for name in OF_SEARCHES if name in values}
    extra = {name: _finite(OVER_DATA.get(name, Tensor.mean)(value)) for name, value in values.items()}
    if "certified" in values:
        extra["gap_certified"] = max(values["gap"][values["certified"] > 0].tolist(), default=None)
    return extra


def _columns(summary: Summary) -> dict[str, float | None]:
    """Return the values in the table, by name."""
    if not summary.num_samples:  # there is no estimate
        return {"elbo": summary.elbo} | {n: v for n, v in summary.extra.items() if n in EXTRA and v is not None}
    left_out = OF_WEIGHTS if summary.judged else (*OF_WEIGHTS, "unreliable") if summary.is_bound else ()
    columns = {name: getattr(summary, name) for name in MEANING if name not in left_out}
    always = EXTRA.keys() - OF_SEARCHES
    columns |= {name: value for name, value in summary.extra.items() if name in always or value is not None}
    return columns if summary.bits_per_dim is None else columns | {"bits_per_dim": summary.bits_per_dim}


def _meaning(name: str, summary: Summary) -> str:
    """Explain a column."""
    meanings = {**MEANING, **EXTRA, **(OF_BOUNDS if summary.is_bound else {})}
    meaning = meanings.get(name, "mean over datapoints")
    meaning = meaning.format(criterion=criterion(summary.pareto_k_threshold, summary.judged))
    weighs = summary.ess_median is not None  # else the estimate is exact
    if name == "pareto_k_max" and weighs and summary.num_samples < MIN_SAMPLES:
        meaning += f" (unknown: it needs {MIN_SAMPLES} samples)"
    elif name == "pareto_k_max" and weighs and summary.lacks_tail:
        meaning += " (none: weights of discrete latents have no tail)"
    elif name == "pareto_k_max" and weighs and summary.num_samples < FEW:
        meaning += f" (rough with fewer than {FEW} samples)"
    elif name == "log_px_mc_se" and summary.log_px_mc_se is None and (summary.unreliable or 0) > SHARE_WITH_ERROR:
        meaning += f" (unknown: more than {SHARE_WITH_ERROR:.0%} are unreliable)"
    return meaning if summary.given is None else meaning.replace("p(x)", f"p(x | {summary.given})")


def _samples(n: int) -> str:
    return f"{n} sample{'' if n == 1 else 's'}"


def _error(point: CurvePoint) -> str:
    return "" if point.log_px_mc_se is None else f", ± {point.log_px_mc_se:.3f}"


def _row(name: str, value: float | str | None, meaning: str) -> str:
    shown = value if isinstance(value, str) else number(value, "10.0f" if name == "num_draws" else "10.3f")
    return f"  {name:<13} {shown:>10}  {meaning}"


def _shares(stages: Sequence[str]) -> dict[str, float]:
    """Return the share of each stage that occurs, in the order of `STAGES`."""
    count = Counter(stages)
    return {name: count[name] / len(stages) for name in STAGES if count[name]}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.01 else f"{100 * share:.1f} %"
