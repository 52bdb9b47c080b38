"""Compare estimators of log p(x) at equal seconds per datapoint with a long run of annealed importance sampling.

python -m pyro_vae.evaluate run=RUN estimator=ais estimator.num_temperatures=10000 num_data=100
python docs/reproductions/estimators.py RUN OUT.json [DATA_ROOT]

The first command writes the reference, evaluations/ais-32.npz. `auto` with its defaults sets the seconds; the other
estimators get as many samples, temperatures or transitions as fit into them. Seconds are those of one processor thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.marginal import AIS, ELBO, Auto, Estimator, Importance, LogEvidence, Prior, Refined, Sandwich
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs.reload import reload
from pyro_vae.runs.restore import restore

CLOSE = 0.1
"""Nats within which an estimate agrees with the reference."""

FIXED: dict[str, Callable[[], Estimator]] = {
    "elbo": lambda: ELBO(100),
    "importance, as in papers": lambda: Importance(5000),
    "auto": Auto,
}
"""Estimators with given settings, with `auto` last."""

ADJUSTED: dict[str, tuple[type[Estimator], str, int, int]] = {
    "importance": (Importance, "num_samples", 2000, 8000),
    "refined": (Refined, "num_samples", 200, 2000),
    "sandwich": (Sandwich, "num_draws", 16, 64),
    "ais": (AIS, "num_temperatures", 10, 50),
    "prior": (Prior, "num_samples", 2000, 8000),
}
"""Estimators whose setting follows from the seconds, with two values at which they are timed first."""


def main() -> None:
    """Write the comparison after each estimator, so that an interrupted comparison is not lost."""
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    annealed = json.loads((run / "evaluations" / "ais-32.json").read_text())
    reference = torch.from_numpy(np.load(run / "evaluations" / "ais-32.npz")["log_px"])
    vae, saved = restore(run, "best", "cpu")
    data, _ = reload(run, saved, (), {"root": sys.argv[3]} if len(sys.argv) > 3 else {}, "test", "")
    split = data.split("test", len(reference))

    def timed(estimator: Estimator) -> tuple[LogEvidence, float]:
        """Return the estimates and the seconds per datapoint."""
        set_seed(0)
        start = time.process_time()
        evidence = estimator(vae.model, vae.guide, split.x)
        return evidence, (time.process_time() - start) / len(split)

    content: dict[str, Any] = {
        "table": "estimators",
        "run": run.name,
        "num_data": len(reference),
        "reference": {key: annealed[key] for key in ("log_px", "log_px_mc_se", "unreliable", "settings")},
        "rows": [],
    }

    def add(name: str, setting: str, evidence: LogEvidence, seconds: float) -> None:
        content["rows"].append({"estimator": name, "setting": setting, "seconds": seconds, **row(evidence, reference)})
        out.write_text(json.dumps(content, indent=2) + "\n")
        print(content["rows"][-1], flush=True)

    timed(ELBO(10))  # first calls are slower
    for name, make in FIXED.items():
        estimator = make()
        evidence, seconds = timed(estimator)
        add(name, f"K = {estimator.num_samples:,}" if name != "auto" else "defaults", evidence, seconds)
    budget = seconds
    for name, (kind, setting, low, high) in ADJUSTED.items():
        first, second = (timed(kind(**{setting: value}))[1] for value in (low, high))
        slope = max((second - first) / (high - low), 1e-9)
        value = max(low, int(low + (budget - first) / slope))
        evidence, seconds = timed(kind(**{setting: value}))
        add(name, f"{setting} = {value:,}", evidence, seconds)


def row(evidence: LogEvidence, reference: torch.Tensor) -> dict[str, float | None]:
    """Compare estimates `[N]` with the reference `[N]`; log p(x) in nats, and shares of datapoints."""
    error, flagged = evidence.log_px - reference, evidence.unreliable
    close = (error.abs() < CLOSE).double()
    upper = evidence.extra.get("log_px_upper")
    return {
        "log_px": evidence.log_px.mean().item(),
        "difference": error.mean().item(),
        "largest": error.abs().max().item(),
        "flagged": flagged.double().mean().item(),
        "close": close.mean().item(),
        "close_unflagged": None if flagged.all() else close[~flagged].mean().item(),
        "upper": None if upper is None else upper.mean().item(),
        "certified": evidence.extra["certified"].mean().item() if "certified" in evidence.extra else None,
    }


if __name__ == "__main__":
    main()
