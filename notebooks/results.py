"""Write rows of results.md from run directories, copying every number from the runs' files.

python notebooks/results.py RUN …

A row replaces an earlier row of the same command; all other rows stay. Rows of the paper's table come first, in its
order. The script reads these files of each run: .hydra/overrides.yaml (the command), metrics.csv (epochs, seconds),
results.json (or evaluations/importance-5000.json if training ended with another estimator than importance with K =
5000) and, if they exist, evaluations/refined-*.json, gaps.json and surgery.json. These commands write the
evaluations:

python -m pyro_vae.evaluate run=RUN estimator=importance estimator.num_samples=5000
python -m pyro_vae.evaluate run=RUN estimator=refined analysis=all
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pyro_vae.runs import metrics
from pyro_vae.runs.config import compose

PAGE = Path(__file__).with_name("results.md")

PUBLISHED = {
    "iwae_table1/vae_k1": (-86.76, 19),
    "iwae_table1/vae_k1_as_coded": (-86.76, 19),
    "iwae_table1/vae_k5": (-86.47, 20),
    "iwae_table1/vae_k50": (-86.35, 20),
    "iwae_table1/iwae_k5": (-85.54, 22),
    "iwae_table1/iwae_k50": (-84.78, 25),
    "iwae_table1/two_layer_vae_k1": (-85.33, 16 + 5),
    "iwae_table1/two_layer_vae_k5": (-85.01, 17 + 5),
    "iwae_table1/two_layer_vae_k50": (-84.78, 17 + 5),
    "iwae_table1/two_layer_iwae_k5": (-83.89, 21 + 5),
    "iwae_table1/two_layer_iwae_k50": (-82.90, 26 + 7),
}
"""The published log p(x) in nats and active units: Burda, Grosse & Salakhutdinov (2016), table 1."""

OF_MNIST = 10_000
"""Number of digits in the test set."""

OF_A_MACHINE = ("data.root=", "data.path=", "hydra.run.dir=", "trainer.compile=", "resume=")
"""Overrides that depend on the machine and do not change the experiment."""

HEADER = """# Published results and our reproductions

[`results.py`](results.py) writes this page from the runs' files. Values are in nats per datapoint; ± is the standard
error over the N test datapoints. *Unreliable* is the share of estimates that are flagged, and likely too low; where
no share is given, it was not recorded.

- *schedule*: epochs done, out of those in the experiment. A shorter run keeps the learning rates of its epochs.
- *N*: number of test datapoints used, the first of the test set. Do not compare numbers of different N: the first
  1,000 digits are easier than the others, as their ELBO shows.
- *importance*: log p(x) from K = 5000 draws of the guide.
- *published*: the paper's number, from the same estimator. It is in brackets if you cannot compare it, because epochs
  or test digits are missing.
- *refined*: log p(x) from a proposal fitted to each datapoint, closer to the truth.
- *approximation gap* and *amortization gap*: what the guide's family cannot express, and what the encoder does not
  reach (Cremer et al., 2018), on the first 100 test datapoints.
- *active units*: latent dimensions that depend on x (the variance of E[z | x] over the data exceeds 0.01), with the
  published number after the slash. The lower of two layers learns its scale, so there dimensions that carry almost no
  information about x can exceed 0.01.
"""

FIGURES = """
Kingma & Welling (2014), figure 4: digits and faces decoded over a plane of two latent variables.

![Means of p(x | z) over the quantiles of p(z): digits](figures/kingma_welling_mnist.png)

![Means of p(x | z) over the quantiles of p(z): faces](figures/kingma_welling_frey_faces.png)"""

COLUMNS = (
    "command", "schedule", "seconds", "N", "ELBO", "importance, K = 5000", "published", "refined", "approximation gap",
    "amortization gap", "active units",
)  # fmt: skip


def row(run: Path) -> list[str]:
    """Return the table cells of a run."""
    overrides = [str(o) for o in OmegaConf.to_object(OmegaConf.load(run / ".hydra" / "overrides.yaml"))]  # type: ignore[union-attr]
    rows = metrics.read(run)
    importance = _importance(run)
    of_refined = sorted((run / "evaluations").glob("refined-*.json"), key=lambda file: int(file.stem.split("-")[1]))
    refined = _read(run, of_refined[-1].name) if of_refined else {}
    gaps = _read(run, "gaps.json").get("test", {})
    surgery = _read(run, "surgery.json").get("test", {})
    experiment = next((o.partition("=")[2] for o in overrides if o.startswith("+experiment=")), "")
    published, published_units = PUBLISHED.get(experiment, (None, None))
    all_epochs = compose([f"+experiment={experiment}"]).trainer.max_epochs
    N = importance["num_data"]
    return [
        "`" + " ".join(["train", *(o for o in overrides if not o.startswith(OF_A_MACHINE))]) + "`",
        f"{len(rows):,} of {all_epochs:,}",
        f"{rows[-1]['seconds']:,.0f}",
        f"{N:,}",
        _number(importance["elbo"]),
        _with_se(importance, N) + _doubts(importance),
        _published(published, compares=N == OF_MNIST and len(rows) == all_epochs),
        _with_se(refined, N) + (f", K = {refined['num_samples']:,}" + _doubts(refined) if refined else ""),
        _number(gaps.get("approximation_gap")),
        _number(gaps.get("amortization_gap")),
        f"{surgery['active_units']}" + (f" / {published_units}" if published_units else "") if surgery else "",
    ]


def _importance(run: Path) -> dict[str, Any]:
    """Return the importance-sampling results of training, or of a later evaluation."""
    test = json.loads((run / "results.json").read_text())["test"]
    if (test["estimator"], test["num_samples"]) == ("importance", 5000):
        return dict(test)
    if evaluation := _read(run, "importance-5000.json"):
        return evaluation
    sys.exit(f"run this first: python -m pyro_vae.evaluate run={run} estimator=importance estimator.num_samples=5000")


def _read(run: Path, name: str) -> dict[str, Any]:
    file = run / "evaluations" / name
    return json.loads(file.read_text()) if file.is_file() else {}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _published(value: float | None, compares: bool) -> str:
    return _number(value) if compares or value is None else f"({_number(value)})"


def _with_se(evidence: dict[str, Any], N: int) -> str:
    if not evidence:
        return ""
    of = "" if evidence["num_data"] == N else f" (N = {evidence['num_data']:,}, their ELBO {evidence['elbo']:.2f})"
    return f"{evidence['log_px']:.2f} ± {evidence['log_px_se']:.2f}{of}"


def _doubts(evidence: dict[str, Any]) -> str:
    return f", {100 * evidence['unreliable']:.1f} % unreliable"


def _place(line: str) -> int:
    """Return the position in the paper's table; other experiments come after it."""
    places = (i for i, experiment in enumerate(PUBLISHED) if re.search(rf"\+experiment={experiment}[ `]", line))
    return next(places, len(PUBLISHED))


def main() -> None:
    """Write results.md."""
    known = [line for line in PAGE.read_text().splitlines() if line.startswith("| `train")]
    new = ["| " + " | ".join(row(run)) + " |" for run in map(Path, sys.argv[1:])]
    rows = {line.split(" | ")[0]: line for line in [*known, *new]}
    rules = "|" + " --- |" * len(COLUMNS)
    table = ["| " + " | ".join(COLUMNS) + " |", rules, *sorted(rows.values(), key=_place)]
    PAGE.write_text("\n".join([HEADER, *table, FIGURES]) + "\n")


if __name__ == "__main__":
    main()
