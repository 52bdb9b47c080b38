"""Compare estimators of log p(x) at equal seconds per datapoint with a long run of annealed importance sampling.

python -m pyro_vae.evaluate run=RUN estimator=ais estimator.num_temperatures=10000 num_data=100
python docs/reproductions/estimators.py RUN FOLDER [DATA_ROOT]

The first command writes the reference; of several, the one with most temperatures is used. The second writes the
estimates of each estimator to FOLDER, where it goes on after an interruption, and then estimators.json. `auto` with its
defaults sets the seconds; the other estimators get as many samples, temperatures or transitions as fit into them.
Seconds are those of one processor thread.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collect import experiment

from pyro_vae.marginal import AIS, ELBO, Auto, Estimator, Importance, LogEvidence, Prior, Refined, Sandwich
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs.reload import reload
from pyro_vae.runs.restore import restore
from pyro_vae.vae import VAE

OUT = Path(__file__).with_suffix(".json")

NUM_DATA = 100
"""Number of datapoints, the first of the test set."""

CLOSE = 0.1
"""Nats within which an estimate agrees with the reference."""

FIXED: dict[str, tuple[Estimator, str]] = {
    "elbo": (ELBO(100), "K = 100"),
    "importance, as in papers": (Importance(5000), "K = 5,000"),
    "auto": (Auto(), "defaults"),
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
    """Run the estimators whose estimates are not in the folder, then compare all with the reference."""
    run, folder = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    vae, saved = restore(run, "best", "cpu")
    data, _ = reload(run, saved, (), {"root": sys.argv[3]} if len(sys.argv) > 3 else {}, "test", "")
    folder.mkdir(parents=True, exist_ok=True)
    measure(folder, vae, data.split("test", NUM_DATA).x)
    content = compared(run, folder)
    OUT.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {OUT}")


def measure(folder: Path, vae: VAE, x: torch.Tensor) -> None:
    """Write the estimates of log p(x) by each estimator to NAME.npz, unless the file exists."""

    def timed(estimator: Estimator) -> tuple[LogEvidence, float]:
        """Return the estimates and the seconds per datapoint."""
        set_seed(0)
        start = time.process_time()
        evidence = estimator(vae.model, vae.guide, x)
        return evidence, (time.process_time() - start) / len(x)

    def saved(name: str, make: Callable[[], tuple[Estimator, str]]) -> float:
        """Return the seconds per datapoint of an estimator."""
        file = folder / f"{name}.npz"
        if not file.is_file():
            estimator, setting = make()
            evidence, seconds = timed(estimator)
            arrays = {key: evidence.extra[key] for key in ("log_px_upper", "certified") if key in evidence.extra}
            arrays |= {"log_px": evidence.log_px, "flagged": evidence.unreliable}
            part = file.with_suffix(".part.npz")
            np.savez(part, setting=setting, seconds=seconds, **arrays)
            part.replace(file)
            print(f"{name}, {setting}: {seconds:.2f} s", flush=True)
        return float(np.load(file)["seconds"])

    def adjusted(kind: type[Estimator], setting: str, low: int, high: int) -> tuple[Estimator, str]:
        first, second = (timed(kind(**{setting: value}))[1] for value in (low, high))
        slope = max((second - first) / (high - low), 1e-9)
        value = max(low, int(low + (budget - first) / slope))
        return kind(**{setting: value}), f"{setting} = {value:,}"

    timed(ELBO(10))  # first calls are slower
    for name, fixed in FIXED.items():
        budget = saved(name, lambda fixed=fixed: fixed)
    for name, given in ADJUSTED.items():
        saved(name, partial(adjusted, *given))


def compared(run: Path, folder: Path) -> dict[str, Any]:
    """Compare the estimates in the folder with the run's reference."""
    found = [json.loads(file.read_text()) for file in (run / "evaluations").glob("ais-*.json")]
    annealed = max(found, key=lambda each: each["settings"]["num_temperatures"], default=None)
    if annealed is None or annealed["num_data"] != NUM_DATA:
        sys.exit(
            f"{run} has no reference for {NUM_DATA} datapoints: run evaluate with estimator=ais num_data={NUM_DATA}"
        )
    reference = np.load(run / "evaluations" / f"ais-{annealed['num_samples']}.npz")["log_px"]
    estimates = {name: np.load(folder / f"{name}.npz") for name in (*FIXED, *ADJUSTED)}
    return {
        "table": "estimators",
        "run": experiment(run),
        "num_data": NUM_DATA,
        "reference": {key: annealed[key] for key in ("log_px", "log_px_mc_se", "unreliable", "settings")},
        "rows": [
            {
                "estimator": name,
                "setting": str(each["setting"]),
                "seconds": float(each["seconds"]),
                **row(each, reference),
            }
            for name, each in estimates.items()
        ],
    }


def row(estimates: Mapping[str, Any], reference: Any) -> dict[str, float | None]:
    """Compare estimates `[N]` with the reference `[N]`; log p(x) in nats, and shares of datapoints."""
    error, flagged = estimates["log_px"] - reference, estimates["flagged"]
    close = np.abs(error) < CLOSE
    return {
        "log_px": float(estimates["log_px"].mean()),
        "difference": float(error.mean()),
        "largest": float(np.abs(error).max()),
        "flagged": float(flagged.mean()),
        "close": float(close.mean()),
        "close_unflagged": None if flagged.all() else float(close[~flagged].mean()),
        "upper": float(estimates["log_px_upper"].mean()) if "log_px_upper" in estimates else None,
        "certified": float(estimates["certified"].mean()) if "certified" in estimates else None,
    }


if __name__ == "__main__":
    main()
