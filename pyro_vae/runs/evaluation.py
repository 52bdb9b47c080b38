"""Evaluations of trained runs: evaluations/NAME-K.json, its arrays and figures, and tables on screen."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import datapoints
from pyro_vae.marginal import ELBO, Estimator, LogEvidence
from pyro_vae.marginal.summary import Summary, table
from pyro_vae.parallel import collectives
from pyro_vae.runs import baseline, comparison, files, paired
from pyro_vae.runs.comparison import Evaluated
from pyro_vae.runs.estimation import estimate, warn_of_doubts
from pyro_vae.runs.figures import array, draw_evidence, drawing, save
from pyro_vae.runs.paired import OVER, UNITS, Scores
from pyro_vae.runs.plots import paired as paired_plots
from pyro_vae.runs.results import SIMULATED, set_aside, write_json
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def evaluate(vae: VAE, data: Dataset, split: Split, estimator: Estimator, config: DictConfig, run_dir: Path) -> Summary:
    """Estimate log p(x) of a split.

    Prints a table; writes NAME-K.json, NAME-K.npz with arrays of values per datapoint and their row numbers in the file
    or array of the data, and figures.

    Returns:
        The summary in the JSON file.
    """
    independent = None if estimator.simulates else baseline.fitted(vae, data)
    evidence, summary = estimate(vae, data, split, estimator, config.seed, independent)
    if collectives.rank() > 0:
        return summary
    split_name = SIMULATED if estimator.simulates else config.split
    about = {"split": split_name, "seed": config.seed, "settings": OmegaConf.to_container(config.estimator)}
    path = run_dir / "evaluations" / f"{summary.estimator}-{summary.num_samples}.json"
    content = {**summary.as_json(), **about}
    set_aside(path, content)
    buffer = io.BytesIO()
    rows = {} if estimator.simulates else {"row": array(split.rows)}
    np.savez(buffer, **_per_datapoint(evidence), **rows)  # type: ignore[arg-type]
    files.write(path.with_suffix(".npz"), buffer.getvalue())
    write_json(path, content)
    if config.plots:
        with drawing(path.parent):
            draw_evidence(evidence, summary, split, path)
    log.info(table(summary, config.split))
    log.info("written: %s", path)
    warn_of_doubts(evidence, summary, estimator, independent)
    return summary


def _per_datapoint(evidence: LogEvidence) -> dict[str, np.ndarray]:
    """Return the arrays `[N]` of NAME-K.npz: numbers, and the names of statuses and stages."""
    numbers = {
        "log_px": evidence.log_px,
        "se": evidence.se,
        "ess": evidence.ess,
        "pareto_k": evidence.pareto_k,
        "unreliable": evidence.unreliable,
        **evidence.extra,
    }
    names = {"status": evidence.status} | ({} if evidence.stages is None else {"stage": evidence.stages})
    return {name: array(value) for name, value in numbers.items()} | {
        name: np.array(value) for name, value in names.items()
    }


def compare(evaluated: Mapping[Path, Evaluated], config: DictConfig, folder: Path) -> None:
    """Compare the runs of a sweep: print tables; write evaluations/NAME-K.json and figures beside it."""
    if collectives.rank() > 0:
        return
    first = next(iter(evaluated.values())).summary
    about = {
        "estimator": first.estimator,
        "num_samples": first.num_samples,
        "num_data": first.num_data,
        "split": config.split,
    }
    rows = comparison.compare(evaluated)
    path = folder / "evaluations" / f"{first.estimator}-{first.num_samples}.json"
    mixed = comparison.mixed_kinds(evaluated.values())
    scores = {} if mixed else scores_of_options(rows, path.stem)
    if not mixed and not scores:
        mixed = ["other data"]
    pairs = paired.compare(scores, rows[0]["options"]) if len(scores) > 1 else []
    for row, pair in zip(rows, pairs, strict=False):
        row["paired"] = {name: value for name, value in pair.items() if name != "name"}
    value = "ELBO" if first.estimator == ELBO.name else "log p(x)"
    set_aside(path, about)
    write_json(path, {**about, "rows": rows})
    with drawing(path.parent):
        save(comparison.figure(rows, evaluated), path.with_suffix(".png"))
        if pairs:
            axes = paired_plots.differences(scores, rows[0]["options"], value)
            save(axes, path.with_name(f"{path.stem}-paired.png"))
    if mixed:
        log.warning("these log p(x) do not compare, among the runs are %s", ", ".join(mixed))
    title = f"{config.split}, {datapoints(first.num_data)}, {first.estimator}, K = {first.num_samples}"
    log.info(comparison.table(rows, title))
    if pairs:
        over = f"{OVER} and over runs" if any(row["num_runs"] > 1 for row in rows) else OVER
        log.info(paired.table(pairs, f"{value} minus that of {rows[0]['options']} {over} {UNITS}"))
    log.info("written: %s", path)


def scores_of_options(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Scores]:
    """Read log p(x) of each datapoint, averaged over the runs of each choice of options; empty if datapoints differ."""
    scores = {run: Scores.read(Path(run) / "evaluations" / f"{name}.npz") for row in rows for run in row["runs"]}
    first = next(iter(scores.values()))
    if not all(first.may_be_of_same_rows(one) for one in scores.values()):
        return {}
    return {row["options"]: Scores.mean([scores[run] for run in row["runs"]]) for row in rows}
