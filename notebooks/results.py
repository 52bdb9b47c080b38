"""Write rows of results.md from run directories: every number is copied from the files that the runs have left.

python notebooks/results.py RUN …

Rows of other runs stay as they are; one of the same command is replaced; the paper's table comes first, in its order.
Of each run it reads .hydra/overrides.yaml (the command), metrics.csv (epochs, seconds), results.json (where its
estimator is not importance with K = 5000, evaluations/importance-5000.json) and, where they are,
evaluations/refined-*.json, gaps.json and surgery.json, which these commands make:

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
"""log p(x) in nats and active units, as the paper gives them: Burda, Grosse & Salakhutdinov (2016), table 1."""

OF_MNIST = 10_000
"""Digits in the test set."""

OF_A_MACHINE = ("data.root=", "data.path=", "hydra.run.dir=", "trainer.compile=", "resume=")
"""Overrides that say where things lie or how they are run, not what is run."""

HEADER = """# Published results, and what came out here

Written by [`results.py`](results.py) from the files of the runs; nats per datapoint. *Schedule*: epochs done, of
those that the experiment asks for (a shorter run has kept the learning rates of its epochs). *importance*: log p(x)
from K = 5000 draws of the guide. *published*: the paper's number, by the same estimator; in brackets where it does
not compare, because epochs or test digits are missing. *refined*: from a proposal fitted to each datapoint, closer to
the truth. ±: the standard error over the N test datapoints, the first, that were taken; numbers of different N do not
compare, the first 1,000 digits are easier than the others, as their ELBO says. *Unreliable*: the share of the
estimates that are flagged, and likely too low; where there is none, it was not recorded. *Gaps*: what the guide's
family cannot express, and what the encoder does not reach (Cremer et al., 2018), on the first 100 of them. *Active
units*: latent dimensions that depend on x (the variance of E[z | x] over the data exceeds 0.01); what was published
after the stroke. (The scale of the lower of two layers is learned: there, dimensions that say next to nothing of x
can lie above 0.01.)
"""

FIGURES = """
Kingma & Welling (2014), figure 4: what a plane of two latent variables means, digits and faces.

![Means of p(x | z) over the quantiles of p(z): digits](figures/kingma_welling_mnist.png)

![Means of p(x | z) over the quantiles of p(z): faces](figures/kingma_welling_frey_faces.png)"""

COLUMNS = (
    "command", "schedule", "seconds", "N", "ELBO", "importance, K = 5000", "published", "refined", "approximation gap",
    "amortization gap", "active units",
)  # fmt: skip


def row(run: Path) -> list[str]:
    """The cells of a run."""
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
    """What training has ended with, or an evaluation after it."""
    test = json.loads((run / "results.json").read_text())["test"]
    if (test["estimator"], test["num_samples"]) == ("importance", 5000):
        return dict(test)
    if evaluation := _read(run, "importance-5000.json"):
        return evaluation
    sys.exit(f"{run}: python -m pyro_vae.evaluate run={run} estimator=importance estimator.num_samples=5000 is missing")


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
    """Of the experiment in the paper's table; of all others, after it."""
    places = (i for i, experiment in enumerate(PUBLISHED) if re.search(rf"\+experiment={experiment}[ `]", line))
    return next(places, len(PUBLISHED))


def main() -> None:
    """Write the page."""
    known = [line for line in PAGE.read_text().splitlines() if line.startswith("| `train")]
    new = ["| " + " | ".join(row(run)) + " |" for run in map(Path, sys.argv[1:])]
    rows = {line.split(" | ")[0]: line for line in [*known, *new]}
    rules = "|" + " --- |" * len(COLUMNS)
    table = ["| " + " | ".join(COLUMNS) + " |", rules, *sorted(rows.values(), key=_place)]
    PAGE.write_text("\n".join([HEADER, *table, FIGURES]) + "\n")


if __name__ == "__main__":
    main()
