"""What a table says of N datapoints' log p(x)."""

from __future__ import annotations

import math
from typing import Any

from pyro_vae.marginal.evidence import LogEvidence

MEANING = {
    "elbo": "evidence lower bound",
    "log_px": "log p(x), estimate",
    "log_px_se": "standard error over datapoints",
    "log_px_mc_se": "standard error of the estimator's own noise",
    "ess_median": "effective sample size, median",
    "ess_min": "effective sample size, smallest",
    "pareto_k_max": "Pareto k, largest (above 0.7: unreliable)",
}


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
        "num_data": N,
    }
    return {name: v if isinstance(v, (int, str)) else _finite(float(v)) for name, v in values.items()}


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def table(summary: dict[str, Any], split: str) -> str:
    """The summary for people, nats per datapoint."""
    title = (
        f"{split}, {summary['num_data']} datapoints, estimator {summary['estimator']}, "
        f"K = {summary['num_samples']} (nats per datapoint)"
    )
    rows = [
        f"  {name:<13} {'-' if summary[name] is None else format(summary[name], '10.3f'):>10}  {meaning}"
        for name, meaning in MEANING.items()
    ]
    return "\n".join([title, *rows])
