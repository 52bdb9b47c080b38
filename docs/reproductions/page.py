"""The page docs/reproductions.md, from the JSON files in docs/reproductions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

PAGE = FOLDER.with_suffix(".md")

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

M2_ERROR = "11.97 % ± 1.71"
"""The published test error of M2 with 100 labels: Kingma, Rezende, Mohamed & Welling (2014), table 1."""

OF_MNIST = 10_000
"""Number of digits in the test set."""

HEADER = """# Reproductions of published results

[`collect.py`](reproductions/collect.py) writes this page from the JSON files beside it, whose numbers it copies from
the files of runs. Values are in nats per datapoint; ± is the standard error over the N test datapoints. *Flagged* is
the share of estimates that fail a check, and are likely too low; where no share is given, it was not recorded.

- *schedule*: epochs done, out of those in the experiment. A shorter run keeps the learning rates of its epochs.
- *seconds*: of training, in most rows beside other work.
- *N*: number of test datapoints, the first of the test set. Do not compare numbers of different N: the first 1,000
  digits are easier than the others, as their ELBO shows.
- *importance*: log p(x) from K = 5000 draws of the guide, the papers' estimator.
- *published*: the paper's number, from the same estimator. It is in brackets if you cannot compare it, because epochs
  or test digits are missing.
- *`auto`*: log p(x) by the estimator `auto`; in older rows, or for more datapoints, by `refined`, an earlier estimator.
- *missed*: what the papers' estimator missed, `auto` minus importance sampling on the same datapoints.
- *gaps*: what the guide's family cannot express (approximation), and what the encoder does not reach (amortization;
  Cremer et al., 2018), on the first 100 test datapoints unless N is given.
- *active units*: latent dimensions that depend on x (the variance of E[z | x] over the data exceeds 0.01), with the
  published number after the slash. The lower of two layers learns its scale, so there dimensions that carry almost no
  information about x can exceed 0.01.
"""

COLUMNS = (
    "command", "schedule", "seconds", "N", "ELBO", "importance", "published", "`auto`", "missed", "approximation gap",
    "amortization gap", "active units",
)  # fmt: skip

OF_CLASSES = ("command", "schedule", "seconds", "test error", "published", "100 labels alone")

OF_GAPS = (
    "command", "schedule", "seconds", "N", "`auto`", "ELBO of the best member", "ELBO", "approximation gap",
    "amortization gap",
)  # fmt: skip

SECTIONS = {
    "iwae_table1": """## Burda, Grosse & Salakhutdinov (2016): IWAE, table 1

The runs follow the paper's text; `vae_k1_as_coded` follows [the authors' code](https://github.com/yburda/iwae), which
differs: it never shuffles, β₁ is 0.99, all layers are initialized from the same seed, Adam's mean of squared gradients
starts at 1, and the training set has 59,600 images.

The whole schedule has eight learning rates, each for three times as many epochs as the one before: 3,280 epochs.
Rows with 121 epochs have had the first five rates, the one with 1,093 the first seven. They stop there for want of
compute: with k = 50, an epoch took 57 seconds beside other work on two cores. The model of such a row is unfinished,
not a reproduction: compare its log p(x) with rows of as many epochs only.

After the whole schedule with k = 5, the IWAE exceeds the VAE by 0.83 nats (importance sampling, all test digits); the
paper's difference is 0.93. On the first 1,000 digits it is 0.76 ± 0.08 (paired), and by `auto` 0.48 ± 0.29 on the first
100. The seconds of these two rows include pauses; without them, an epoch takes about 8 seconds on a core of an AMD EPYC
(Zen 4).
""",
    "kingma_welling": """## Kingma & Welling (2014)

MNIST, and Frey Faces as densities of continuous grey values. Figure 4: digits and faces decoded over a plane of two
latent variables.

![Means of p(x | z) over the quantiles of p(z): digits](figures/kingma_welling_mnist.png)

![Means of p(x | z) over the quantiles of p(z): faces](figures/kingma_welling_frey_faces.png)
""",
    "tomczak_welling": """## Tomczak & Welling (2018): VampPrior

Frey Faces with 256 grey levels, 40 latents and the same network for both priors, one seed each; training stops after 50
epochs without a better validation ELBO. With the standard prior few latents are used. The authors' layers are gated,
they raise the weight of the KL slowly, and their split of the images differs, so the paper's numbers do not compare.
The seconds were measured on a machine that others used at the same time.
""",
    "kingma_semi_supervised": """## Kingma et al. (2014): semi-supervised learning

Model M2 with 100 labels of MNIST, ten of each class; one seed. Of the training images, 10,000 are for validation, as in
the paper: there α = 1 was better than 10 after two epochs. The paper trains until convergence. Here the test error was
33.8 % after 10 epochs, 14.5 % after 100 and 11.3 % after 153, when the validation ELBO was still rising. *100 labels
alone* is the same classifier trained on the labelled images only. The paper's M1 and M2 together reach 3.33 %. The
seconds were measured on a machine that others used at the same time, with pauses.
""",
    "cremer": """## Cremer, Li & Duvenaud (2018): gaps

The same network and schedule for each guide: 10 epochs of MNIST at a batch of 100, far fewer than the paper's. The gaps
are measured against `auto`'s log p(x). The seconds were measured on a machine that others used at the same time.
""",
}
"""The heading of each table of training runs, by the first part of the experiment's name."""

ESTIMATORS = """## Estimators at equal seconds

Estimates of log p(x) of the first {num_data} test digits under the model of `{run}`. `auto` with its defaults sets
the seconds (of one processor thread, per digit); the others get about as many samples, temperatures or transitions as
fit into them. The reference is annealed importance sampling with {num_temperatures:,} temperatures and {num_samples}
chains for each digit: {log_px:.2f} on average (Monte Carlo error {log_px_mc_se:.3f}, {flagged} flagged). It is a lower
bound in expectation. [`estimators.py`](reproductions/estimators.py) makes the table.

- *seconds*: as measured, which is not exactly those of `auto`.
- *difference*: mean of estimate minus reference; *largest*: its largest magnitude.
- *close*: share within 0.1 nats of the reference; *of the others*: the same among estimates that are not flagged.
- *upper bound*: mean of the upper bounds, of which the share *certified* passes the sandwich's checks.
"""

MISSING = """## Mattei & Frellsen (2019): MIWAE

Half of the entries are removed at random, and imputed by the model that learned from the rest: mean squared error on
the standardized data, ± its standard deviation over {num_seeds} seeds. The published values come from the authors'
notebooks, with one seed. [`miwae.py`](reproductions/miwae.py) makes the table.
"""


def write() -> str:
    """Return the page."""
    contents = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]
    parts = [HEADER]
    for section, heading in SECTIONS.items():
        rows = [row for row in contents if row.get("experiment", "").startswith(section + "/")]
        if rows:
            columns, make_cells = TABLES.get(section, (COLUMNS, cells))
            parts += [heading, table(columns, [make_cells(row) for row in sorted(rows, key=_place)])]
    tables: dict[str, Callable[[dict[str, Any]], list[str]]] = {"missing": missing, "estimators": estimators}
    for name, make in tables.items():
        for content in contents:
            if content.get("table") == name:
                parts += make(content)
    return "\n".join(parts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """Return the table's cells of a run."""
    published, published_units = PUBLISHED.get(row["experiment"], (None, None))
    paper = _largest(row["estimates"], "importance")
    auto, refined = (_largest(row["estimates"], name) for name in ("auto", "refined"))
    better = auto or refined
    wider = refined if auto and refined and refined["num_data"] > auto["num_data"] else None
    same = _largest(row["estimates"], "importance", better and better["num_data"])
    complete = row["epochs"] == row["all_epochs"] and paper is not None and paper["num_data"] == OF_MNIST
    units = row["active_units"]
    return [
        f"`{row['command']}`",
        f"{row['epochs']:,} of {row['all_epochs']:,}",
        f"{row['seconds']:,}",
        "" if paper is None else f"{paper['num_data']:,}",
        "" if paper is None else _number(paper["elbo"]),
        estimate(paper, paper),
        _number(published) if complete or published is None else f"({_number(published)})",
        "; ".join(estimate(each, paper) for each in (better, wider) if each),
        _number(better["log_px"] - same["log_px"]) if better and same else "",
        _gap(row, "approximation_gap"),
        _gap(row, "amortization_gap"),
        "" if units is None else f"{units}" + (f" / {published_units}" if published_units else ""),
    ]


def gap_cells(row: dict[str, Any]) -> list[str]:
    """Return the table's cells of a run whose gaps are of interest."""
    gaps = row["gaps"]
    values = (gaps.get(key) for key in ("log_px", "elbo_best", "elbo", "approximation_gap", "amortization_gap"))
    num_data = str(gaps.get("num_data", ""))
    return [*cells(row)[:3], num_data, *map(_number, values)]


def class_cells(row: dict[str, Any]) -> list[str]:
    """Return the table's cells of a run whose classifier is of interest."""
    found = row["classification"]
    error, supervised = (_share(1 - found[key]) for key in ("accuracy", "accuracy_supervised"))
    complete = row["epochs"] == row["all_epochs"]
    return [*cells(row)[:3], error, M2_ERROR if complete else f"({M2_ERROR})", supervised]


TABLES = {"cremer": (OF_GAPS, gap_cells), "kingma_semi_supervised": (OF_CLASSES, class_cells)}
"""The columns and cells of the tables that have others than `COLUMNS` and `cells`."""


def estimate(found: dict[str, Any] | None, paper: dict[str, Any] | None) -> str:
    """Describe an estimate, with what differs from the papers' estimator."""
    if found is None:
        return ""
    text = f"{found['log_px']:.2f} ± {found['log_px_se']:.2f}"
    if paper is not None and found["num_data"] != paper["num_data"]:
        elbo = f", ELBO of these {found['elbo']:.2f}" if "elbo" in found else ""
        text += f" (N = {found['num_data']:,}{elbo})"
    if found["estimator"] == "refined":
        text += ", `refined`"
    if found["estimator"] == "importance" and found["num_samples"] != 5000:
        text += f", K = {found['num_samples']:,}"
    if "unreliable" in found:
        text += f", {_share(found['unreliable'])} flagged"
    return text


def estimators(content: dict[str, Any]) -> list[str]:
    """Return the comparison of estimators with a reference."""
    reference = content["reference"]
    heading = ESTIMATORS.format(**content | reference | reference["settings"], flagged=_share(reference["unreliable"]))
    columns = (
        "estimator", "setting", "seconds", "log p(x)", "difference", "largest", "flagged", "close", "of the others",
        "upper bound", "certified",
    )  # fmt: skip
    rows = [
        [
            row["estimator"],
            row["setting"],
            f"{row['seconds']:.2f}",
            _number(row["log_px"]),
            f"{row['difference']:.3f}",
            _number(row["largest"]),
            *(_share(row[key]) for key in ("flagged", "close", "close_unflagged")),
            _number(row["upper"]),
            _share(row["certified"]),
        ]
        for row in content["rows"]
    ]
    return [heading, table(columns, rows)]


def missing(content: dict[str, Any]) -> list[str]:
    """Return the table of imputations."""
    columns = ("data", "epochs", "seconds", "mean squared error", "published")
    rows = [
        [
            row["data"],
            f"{row['epochs']:,}",
            f"{row['seconds']:,.0f}",
            f"{row['mse']:.3f} ± {row['sd']:.3f}",
            f"{row['published']:.3f}",
        ]
        for row in content["rows"]
    ]
    return [MISSING.format(**content), table(columns, rows)]


def _largest(estimates: Sequence[dict[str, Any]], name: str, num_data: int | None = None) -> dict[str, Any] | None:
    """Return the estimate by an estimator, on `num_data` datapoints or on as many as there are, with most samples."""
    found = [e for e in estimates if e["estimator"] == name and num_data in (None, e["num_data"])]
    return max(found, key=lambda e: (e["num_data"], e.get("num_samples", 0)), default=None)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _gap(row: dict[str, Any], name: str) -> str:
    gaps = row["gaps"]
    return _number(gaps.get(name)) + ("" if gaps.get("num_data", 100) == 100 else f" (N = {gaps['num_data']})")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _place(row: dict[str, Any]) -> tuple[int, str]:
    """Return the position in the paper's table, with other experiments after it."""
    place = list(PUBLISHED).index(row["experiment"]) if row["experiment"] in PUBLISHED else len(PUBLISHED)
    latent_dim = re.search(r" latent_dim=(\d+)", row["command"])
    return place, f"{int(latent_dim[1]):04}" if latent_dim else row["command"]
