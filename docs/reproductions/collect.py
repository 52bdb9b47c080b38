"""Collect the results of runs in JSON files, and write the page docs/reproductions.md from all of them.

python docs/reproductions/collect.py RUN …    # write a JSON of each run, then the page
python docs/reproductions/collect.py          # write only the page

A run of the same command replaces its JSON. Every number is copied from the run's files: .hydra/overrides.yaml (the
command), metrics.csv (epochs, seconds), results.json and evaluations/*.json. These commands write evaluations:

python -m pyro_vae.evaluate run=RUN estimator=importance estimator.num_samples=5000 num_data=100
python -m pyro_vae.evaluate run=RUN num_data=100
python -m pyro_vae.evaluate run=RUN analysis=all num_data=100
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from page import PAGE, write

from pyro_vae.runs import metrics
from pyro_vae.runs.config import compose

FOLDER = Path(__file__).parent

LEFT_OUT = (
    "data.root=", "data.path=", "hydra.run.dir=", "trainer.compile=", "resume=", "plots=", "estimator=none",
    "second_estimator=",
)  # fmt: skip
"""Overrides that do not change the trained model."""

KEPT = ("estimator", "num_samples", "num_data", "elbo", "log_px", "log_px_se", "unreliable", "bits_per_dim")
"""What the JSON keeps of an estimate of log p(x)."""

GAPS = ("num_data", "log_px", "elbo_best", "elbo", "approximation_gap", "amortization_gap")
"""What it keeps of gaps.json."""


def collected(run: Path) -> dict[str, Any]:
    """Return the results of a run: values in nats per datapoint."""
    rows = metrics.read(run)
    results = _read(run / "results.json")
    options = [o for o in overrides(run) if not o.startswith(LEFT_OUT)]
    gaps, surgery = (_read(run / "evaluations" / f"{name}.json").get("test", {}) for name in ("gaps", "surgery"))
    return {
        "experiment": experiment(run),
        "command": " ".join(["train", *sorted(options, key=lambda o: not o.startswith("+experiment="))]),
        "epochs": len(rows),
        "all_epochs": compose([f"+experiment={experiment(run)}"]).trainer.max_epochs,
        "seconds": round(rows[-1]["seconds"]),
        "estimates": estimates(run),
        "gaps": {key: value for key, value in gaps.items() if key in GAPS},
        "active_units": surgery.get("active_units"),
        **({"classification": results["classification"]} if "classification" in results else {}),
    }


def overrides(run: Path) -> list[str]:
    """Return the overrides that a run was trained with."""
    return [str(o) for o in OmegaConf.to_object(OmegaConf.load(run / ".hydra" / "overrides.yaml"))]  # type: ignore[union-attr]


def experiment(run: Path) -> str:
    """Return the name of a run's experiment."""
    for override in overrides(run):
        if override.startswith("+experiment="):
            return override.partition("=")[2]
    sys.exit(f"{run} was trained without +experiment=NAME: train it again with one in conf/experiment")


def estimates(run: Path) -> list[dict[str, Any]]:
    """Return the estimates of the test set in results.json and evaluations/, one for each estimator and N."""
    results = _read(run / "results.json")
    found = [results[key] for key in ("test", "importance") if key in results]
    found += [json.loads(file.read_text()) for file in sorted((run / "evaluations").rglob("*-*.json"))]
    unique = {
        (each["estimator"], each["num_samples"], each["num_data"]): {key: each[key] for key in KEPT if key in each}
        for each in found
        if each.get("estimator") in ("importance", "refined", "auto") and each.get("split", "test") == "test"
    }
    return list(unique.values())


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def file_of(command: str) -> Path:
    """Return the JSON file of a command, named after its options."""
    return FOLDER / (re.sub(r"[^\w.,=-]+", "_", command.removeprefix("train +experiment=")) + ".json")


def main() -> None:
    """Write the JSON of each run on the command line, and the page."""
    for run in map(Path, sys.argv[1:]):
        row = collected(run)
        file = file_of(row["command"])
        file.write_text(json.dumps(row, indent=2) + "\n")
        print(f"written: {file}")
    PAGE.write_text(write())
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
