"""Evaluations of trained runs: evaluations/NAME-K.json, its arrays and figures, and tables on screen."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import datapoints
from pyro_vae.marginal import Estimator, LogEvidence
from pyro_vae.marginal.summary import Summary, table
from pyro_vae.parallel import collectives
from pyro_vae.runs import baseline, comparison, files
from pyro_vae.runs.comparison import Evaluated
from pyro_vae.runs.estimation import estimate, warn_of_doubts
from pyro_vae.runs.figures import array, draw_evidence, drawing, save
from pyro_vae.runs.results import SIMULATED, set_aside, write_json
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def evaluate(vae: VAE, data: Dataset, split: Split, estimator: Estimator, config: DictConfig, run_dir: Path) -> Summary:
    """Estimate log p(x) of a split.

    Prints a table; writes NAME-K.json, NAME-K.npz with arrays of values per datapoint, and figures.

    Returns:
        The summary in the JSON file.
    """
    independent = None if estimator.simulates else baseline.independent_marginals(vae, data)
    evidence, summary = estimate(vae, data, split, estimator, config.seed, independent)
    if collectives.rank() > 0:
        return summary
    split_name = SIMULATED if estimator.simulates else config.split
    about = {"split": split_name, "seed": config.seed, "settings": OmegaConf.to_container(config.estimator)}
    path = run_dir / "evaluations" / f"{summary.estimator}-{summary.num_samples}.json"
    content = {**summary.as_json(), **about}
    set_aside(path, content)
    buffer = io.BytesIO()
    np.savez(buffer, **_per_datapoint(evidence))  # type: ignore[arg-type]
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
    """Compare the runs of a sweep: print a table; write evaluations/NAME-K.json and a figure beside it."""
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
    set_aside(path, about)
    write_json(path, {**about, "rows": rows})
    with drawing(path.parent):
        save(comparison.figure(rows, evaluated), path.with_suffix(".png"))
    comparison.warn_of_kinds(evaluated.values())
    title = f"{config.split}, {datapoints(first.num_data)}, {first.estimator}, K = {first.num_samples}"
    log.info(comparison.table(rows, title))
    log.info("written: %s", path)
