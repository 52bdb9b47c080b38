"""What a table says of N datapoints' log p(x)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pyro_vae.errors import datapoints
from pyro_vae.marginal.estimator import Estimator
from pyro_vae.marginal.evidence import LogEvidence, criterion, doubt
from pyro_vae.marginal.pareto import FEW, MIN_SAMPLES

MEANING = {
    "elbo": "evidence lower bound",
    "log_px": "log p(x), estimate",
    "log_px_se": "standard error over datapoints",
    "log_px_mc_se": "standard error of the estimator's own noise",
    "ess_median": "effective sample size, median",
    "ess_min": "effective sample size, smallest",
    "pareto_k_max": "Pareto k, largest",
    "unreliable": "share of datapoints with {criterion}",
}
EXTRA = {
    "baseline": "log p(x) of independent marginals, one for each dimension, fitted to the training set",
    "bits_per_dim": "log p(x) in bits per dimension",
    "acceptance": "share of HMC proposals accepted",
    "log_px_upper": "log p(x), upper bound",
    "gap": "upper bound - log p(x), estimate",
    "loc_error": "distance of q's mean from the posterior's, in its standard deviations, largest of a datapoint",
    "scale_ratio": "standard deviation of q / the posterior's, geometric mean over dimensions",
    "correlation": "correlation of two dimensions of the posterior, largest absolute one of a datapoint",
}
"""Columns that only some tables have. Other columns are means over datapoints of an estimator's `extra`."""

TOLERATED = 0.01
"""Share of datapoints whose estimates may be unreliable before a user is told."""

SHARE_WITH_ERROR = 0.1
"""Share of datapoints whose estimates may be unreliable before their mean has no Monte Carlo error.

Such an estimate's `se` is too small, and it is too low by more than that. With log-normal weights, K = 500 and N = 500
the mean is too low by 1 standard error where 2 % are flagged, 2 where 12 % are, 5 where 38 % are.
"""


def summarize(evidence: LogEvidence, estimator: str) -> dict[str, Any]:
    """Means over datapoints, in nats per datapoint.

    `log_px_se` is the standard error of the mean over datapoints, sd(log p̂(x_i)) / √N; `log_px_mc_se` is the
    part of it that more samples would remove, √(Σ se_i²) / N. None stands for what one datapoint or one sample
    cannot tell, and for `log_px_mc_se` where more than `SHARE_WITH_ERROR` of the estimates are unreliable. Above
    `pareto_k_threshold` a Pareto k makes an estimate unreliable; None: there is no Pareto k.
    """
    N = len(evidence.log_px)
    k = evidence.pareto_k[~evidence.pareto_k.isnan()]
    unreliable = evidence.unreliable.double().mean() if evidence.num_samples else math.nan
    has_error = evidence.is_bound or not unreliable > SHARE_WITH_ERROR
    values = {
        "elbo": evidence.elbo.mean(),
        "log_px": evidence.log_px.mean(),
        "log_px_se": evidence.log_px.std() / math.sqrt(N) if N > 1 else math.nan,
        "log_px_mc_se": evidence.se.square().sum().sqrt() / N if has_error else math.nan,
        "estimator": estimator,
        "num_samples": evidence.num_samples,
        "ess_median": evidence.ess.median(),
        "ess_min": evidence.ess.min(),
        "pareto_k_max": k.max() if len(k) else math.nan,
        "pareto_k_threshold": math.nan if evidence.k_threshold is None else evidence.k_threshold,
        "unreliable": unreliable,
        "num_data": N,
        **{name: value.mean() for name, value in evidence.extra.items()},
    }
    summary: dict[str, Any] = {
        name: v if isinstance(v, (int, str)) else _finite(float(v)) for name, v in values.items()
    }
    if evidence.curve:
        points = [summarize(point, estimator) for point in (*evidence.curve, replace(evidence, curve=()))]
        summary["curve"] = [{name: p[name] for name in ("num_samples", "log_px", "log_px_mc_se")} for p in points]
    return summary


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def table(summary: dict[str, Any], split: str) -> str:
    """The summary for people, nats per datapoint; `given` y, that of a conditional model's log p(x | y)."""
    of = "simulated" if summary["estimator"] == "bdmc" else split
    title = f"{of}, {datapoints(summary['num_data'])}"
    if summary["num_samples"]:  # else there is no estimate
        title += f", estimator {summary['estimator']}, K = {summary['num_samples']}"
    title += " (nats per datapoint)"
    rows = [_row(name, summary[name], _meaning(name, summary)) for name in _columns(summary)]
    rows += [
        _row("log_px", point["log_px"], f"from the first {_samples(point['num_samples'])}{_error(point)}")
        for point in summary.get("curve", [])[:-1]
    ]
    return "\n".join([title, *rows])


def verdict(summary: dict[str, Any], estimator: Estimator) -> str | None:
    """A warning, with what to do, if more than `TOLERATED` of the datapoints' estimates are unreliable.

    Args:
        summary: of the estimates.
        estimator: which made them: its settings tell what can still be done.
    """
    share = summary["unreliable"]
    advice = estimator.advice(discrete=_lacks_tail(summary))
    if advice is None or share is None or share <= TOLERATED:
        return None
    too_low = doubt(summary["num_samples"], summary["pareto_k_threshold"])
    return f"warning: {100 * share:.1f} % of the datapoints' estimates are unreliable, and {too_low}: {advice}"


def number(value: float | None, form: str) -> str:
    """The value in that form, or a dash if it is unknown."""
    return "-" if value is None else format(value, form)


def _columns(summary: dict[str, Any]) -> list[str]:
    if not summary["num_samples"]:  # nothing was estimated
        return ["elbo", *(name for name in summary if name in EXTRA and summary[name] is not None)]
    others = [name for name in summary if name not in (*MEANING, "pareto_k_threshold")]
    return [*MEANING, *(name for name in others if name in EXTRA or isinstance(summary[name], float))]


def _meaning(name: str, summary: dict[str, Any]) -> str:
    meaning = {**MEANING, **EXTRA}.get(name, "mean over datapoints")
    meaning = meaning.format(criterion=criterion(summary["pareto_k_threshold"]))
    weighs = summary["ess_median"] is not None  # else it is exact
    if name == "pareto_k_max" and weighs and summary["num_samples"] < MIN_SAMPLES:
        meaning += f" (unknown: it takes {MIN_SAMPLES} samples)"
    elif name == "pareto_k_max" and weighs and _lacks_tail(summary):
        meaning += " (none: weights of discrete latents have no tail)"
    elif name == "pareto_k_max" and weighs and summary["num_samples"] < FEW:
        meaning += f" (rough with fewer than {FEW} samples)"
    elif name == "log_px_mc_se" and summary[name] is None and (summary["unreliable"] or 0) > SHARE_WITH_ERROR:
        meaning += f" (unknown: more than {SHARE_WITH_ERROR:.0%} are unreliable)"
    return meaning.replace("p(x)", f"p(x | {summary['given']})") if "given" in summary else meaning


def _lacks_tail(summary: dict[str, Any]) -> bool:
    """Whether there is no Pareto k although there are enough samples for one: latents are discrete."""
    return summary["pareto_k_threshold"] is None and summary["num_samples"] >= MIN_SAMPLES


def _samples(n: int) -> str:
    return f"{n} sample{'' if n == 1 else 's'}"


def _error(point: dict[str, Any]) -> str:
    se = point["log_px_mc_se"]
    return "" if se is None else f", ± {se:.3f}"


def _row(name: str, value: float | None, meaning: str) -> str:
    return f"  {name:<13} {number(value, '10.3f'):>10}  {meaning}"
