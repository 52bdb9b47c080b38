"""Gaps and ELBO surgery of a trained run: evaluations/gaps.json, surgery.json, and tables on screen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pyro_vae import analysis
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput
from pyro_vae.marginal import Estimator
from pyro_vae.parallel import collectives
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import of_split
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs import plots
from pyro_vae.runs.figures import drawing, save
from pyro_vae.runs.results import set_aside, write_json
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

GAPS_DATA, SURGERY_DATA = 100, 1000
"""Datapoints of each analysis where `num_data` is null."""

NOISE = 0.05
"""Nats by which an approximation gap may be negative because of the noise of its two estimates."""


def analyse(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, run_dir: Path) -> None:
    """Print and write the analyses in `config.analysis`.

    Each covers the training set beside `config.split`, to show how the encoder generalizes.
    """
    if collectives.rank() > 0:
        return
    folder = run_dir / "evaluations"
    set_seed(config.seed)
    if config.analysis in ("gaps", "all"):
        try:
            _gaps(vae, data, estimator, config, folder)
        except BadInput as error:  # the guide has no gaps
            if config.analysis == "gaps":
                raise
            log.warning("no gaps: %s", error)
    if config.analysis in ("surgery", "all"):
        _surgery(vae, data, config, folder)


def _gaps(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, folder: Path) -> None:
    rows = {}
    for name, split in _splits(data, config.split, config.num_data or GAPS_DATA):
        with of_split(name):
            values = analysis.gaps(vae.model, vae.guide, split.x, estimator, vae.taken_labels(split.y))
        rows[name] = {key: value.mean().item() for key, value in values.items()} | {"num_data": len(split)}
    _log_table("gaps (nats per datapoint)", rows)
    settings = OmegaConf.to_container(config.estimator)
    _write(folder / "gaps.json", rows, {"seed": config.seed, "settings": settings})
    if config.plots:
        with drawing(folder):
            approximation = [row["approximation_gap"] for row in rows.values()]
            amortization = [row["amortization_gap"] for row in rows.values()]
            save(plots.gaps(list(rows), approximation, amortization), folder / "gaps.png")
    lowest = min(row["approximation_gap"] for row in rows.values())
    if lowest < -NOISE:
        log.warning(
            "log p(x) is too low by %.2f nats or more, since an ELBO exceeds it: %s",
            -lowest, estimator.advice() or "use estimator=refined",
        )  # fmt: skip


def _surgery(vae: VAE, data: Dataset, config: DictConfig, folder: Path) -> None:
    rows = {}
    for name, split in _splits(data, config.split, config.num_data or SURGERY_DATA):
        with of_split(name):
            rows[name] = analysis.surgery(vae.model, vae.guide, split.x, vae.taken_labels(split.y))
    _log_table("ELBO surgery (nats per datapoint)", rows)
    _write(folder / "surgery.json", rows, {"seed": config.seed})
    if note := analysis.limit(rows[config.split], data.sizes[config.split]):
        log.log(NOTE, note)
    if warning := analysis.collapse(rows[config.split]):
        log.warning(warning)


def _splits(data: Dataset, split: str, num_data: int) -> list[tuple[str, Split]]:
    """Return the first `num_data` datapoints of the training set and of a split, with their names."""
    names = dict.fromkeys(["train", split])
    return [(name, data.split(name, min(num_data, data.sizes[name]))) for name in names]


def _write(path: Path, rows: dict[str, dict[str, Any]], origin: dict[str, Any]) -> None:
    content = {name: {**row, **origin} for name, row in rows.items()}
    set_aside(path, content)
    write_json(path, content)
    log.info("written: %s", path)


def _log_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print a table with a column for each of `rows`."""
    lines = [title, " " * 21 + "".join(f"{name:>12}" for name in rows)]
    for key, value in next(iter(rows.values())).items():
        if not isinstance(value, bool):
            lines.append(f"  {key:<19}{''.join(f'{analysis.shown(key, row):>12}' for row in rows.values())}")
    log.info("\n".join(lines))
