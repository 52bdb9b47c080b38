"""What a table says of N datapoints' log p(x)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pyro_vae.marginal.evidence import LogEvidence

MEANING = {
    "elbo": "evidence lower bound",
    "log_px": "log p(x), estimate",
    "log_px_se": "standard error over datapoints",
    "log_px_mc_se": "standard error of the estimator's own noise",
    "ess_median": "effective sample size, median",
    "ess_min": "effective sample size, smallest",
    "pareto_k_max": "Pareto k, largest",
    "unreliable": "share of datapoints with Pareto k > 0.7 or effective sample size < 10",
}
OTHER = {
    "baseline": "log p(x) of independent marginals fitted to the training set",
    "bits_per_dim": "log p(x) in bits per dimension",
}
REFINED = "estimator=refined has a proposal for each datapoint (discrete latents: raise estimator.num_samples)"
BETTER = {
    "importance": REFINED,
    "prior": REFINED,
    "refined": "raise estimator.num_samples, set estimator.num_elbo_steps=50, or compare with estimator=ais",
    "ais": "raise estimator.num_temperatures or estimator.num_samples",
    "nuts": "raise estimator.num_draws, or take estimator=refined",
}
"""What to do where an estimator is unreliable; the others are bounds or exact."""

TOLERATED = 0.01
"""Share of datapoints whose estimates may be unreliable before a user is told."""


def summarize(evidence: LogEvidence, estimator: str) -> dict[str, Any]:
    """Means over datapoints, in nats per datapoint.

    `log_px_se` is the standard error of the mean over datapoints, sd(log p̂(x_i)) / √N; `log_px_mc_se` is the
    part of it that more samples would remove, √(Σ se_i²) / N. None stands for what one datapoint or one sample
    cannot tell.
    """
    N = len(evidence.log_px)
    values = {
        "elbo": evidence.elbo.mean(),
        "log_px": evidence.log_px.mean(),
        "log_px_se": evidence.log_px.std() / math.sqrt(N) if N > 1 else math.nan,
        "log_px_mc_se": evidence.se.square().sum().sqrt() / N,
        "estimator": estimator,
        "num_samples": evidence.num_samples,
        "ess_median": evidence.ess.median(),
        "ess_min": evidence.ess.min(),
        "pareto_k_max": evidence.pareto_k.max(),
        "unreliable": evidence.unreliable.double().mean(),
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


def _given(meaning: str, summary: dict[str, Any]) -> str:
    return meaning.replace("p(x)", f"p(x | {summary['given']})") if "given" in summary else meaning


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def table(summary: dict[str, Any], split: str) -> str:
    """The summary for people, nats per datapoint; `given` y, that of a conditional model's log p(x | y)."""
    of = "simulated" if summary["estimator"] == "bdmc" else split
    title = (
        f"{of}, {summary['num_data']} datapoints, estimator {summary['estimator']}, "
        f"K = {summary['num_samples']} (nats per datapoint)"
    )
    meanings = {name: _given(meaning, summary) for name, meaning in MEANING.items()}
    others = [name for name, value in summary.items() if name not in MEANING and isinstance(value, float)]
    extra = {name: OTHER.get(name, "mean over datapoints") for name in others}
    rows = [_row(name, summary[name], meaning) for name, meaning in {**meanings, **extra}.items()]
    rows += [
        _row(
            "log_px",
            point["log_px"],
            f"from the first {point['num_samples']} samples, ± {number(point['log_px_mc_se'], '.3f')}",
        )
        for point in summary.get("curve", [])[:-1]
    ]
    return "\n".join([title, *rows])


def verdict(summary: dict[str, Any]) -> str | None:
    """A warning, with what to do, if more than `TOLERATED` of the datapoints' estimates are unreliable."""
    share, advice = summary["unreliable"], BETTER.get(summary["estimator"])
    if advice is None or share is None or share <= TOLERATED:
        return None
    return f"warning: {100 * share:.1f} % of the datapoints' estimates are unreliable, and likely too low: {advice}"


def _row(name: str, value: float | None, meaning: str) -> str:
    return f"  {name:<13} {number(value, '10.3f'):>10}  {meaning}"


def number(value: float | None, form: str) -> str:
    """The value in that form, or a dash for what cannot be told."""
    return "-" if value is None else format(value, form)
