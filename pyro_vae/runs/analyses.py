"""Gaps and ELBO surgery of a trained run: evaluations/gaps.json, surgery.json, and tables on screen."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pyro_vae import analysis
from pyro_vae.analysis import Surgery
from pyro_vae.analysis.gaps import StillRises
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput, datapoints
from pyro_vae.marginal import Estimator
from pyro_vae.parallel import collectives
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import of_split
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs import plots
from pyro_vae.runs.figures import drawing, save
from pyro_vae.runs.results import SIMULATED, set_aside, write_json
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

GAPS_DATA, SURGERY_DATA, CERTIFICATE_DATA = 100, 1000, 200
"""Datapoints of each analysis where `num_data` is null, and of a certificate."""

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


def certify(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, run_dir: Path) -> None:
    """Test the estimator on simulated data: print a line, and write evaluations/certificate-NAME-K.json."""
    if collectives.rank() > 0:
        return
    set_seed(config.seed)
    split = data.split(config.split, min(CERTIFICATE_DATA, data.sizes[config.split]))
    rows = torch.arange(CERTIFICATE_DATA) % len(split)  # only shapes and labels count
    y = vae.taken_labels(split.y)
    found = analysis.certificate(*vae.programs(y), split.x[rows], estimator, None if y is None else y[rows])
    settings = OmegaConf.to_container(config.estimator)
    about = {"estimator": estimator.name, "split": SIMULATED, "seed": config.seed, "settings": settings}
    path = run_dir / "evaluations" / f"certificate-{estimator.name}-{estimator.num_samples}.json"
    content = {**found.as_json(), **about}
    set_aside(path, content)
    write_json(path, content)
    log.info("%s", found)
    log.info("written: %s", path)


def _gaps(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, folder: Path) -> None:
    rows = {}
    for name, split in _splits(data, config.split, config.num_data or GAPS_DATA):
        with of_split(name):
            y = vae.taken_labels(split.y)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StillRises)  # logged below, without the file and line of Python's
                found = analysis.gaps(*vae.programs(y), split.x, estimator, y, num_steps=config.num_steps)
        if (warning := found.warning(config.num_steps)) is not None:
            log.warning("%s: %s", name, warning)
        rows[name] = found.as_json()
    _log_table("gaps (nats per datapoint)", rows)
    settings = OmegaConf.to_container(config.estimator)
    about = {"seed": config.seed, "num_steps": config.num_steps, "settings": settings}
    _write(folder / "gaps.json", rows, about)
    if config.plots:
        with drawing(folder):
            approximation = [row["approximation_gap"] for row in rows.values()]
            amortization = [row["amortization_gap"] for row in rows.values()]
            save(plots.gaps(list(rows), approximation, amortization), folder / "gaps.png")
    lowest = min(row["approximation_gap"] for row in rows.values())
    if lowest < -NOISE:
        log.warning(
            "log p(x) is too low by %.2f nats or more, since an ELBO exceeds it: %s",
            -lowest, estimator.advice() or "use estimator=auto",
        )  # fmt: skip


def _surgery(vae: VAE, data: Dataset, config: DictConfig, folder: Path) -> None:
    found = {}
    for name, split in _splits(data, config.split, config.num_data or SURGERY_DATA):
        with of_split(name):
            y = vae.taken_labels(split.y)
            found[name] = analysis.surgery(*vae.programs(y), split.x, y)
    rows = {name: parts.as_json() for name, parts in found.items()}
    _log_table("ELBO surgery (nats per datapoint)", rows)
    _write(folder / "surgery.json", rows, {"seed": config.seed})
    if config.plots:
        with drawing(folder):
            parts = list(found.values())
            information, kl = [p.mutual_information for p in parts], [p.marginal_kl for p in parts]
            at_limit = any(p.mutual_information_at_limit for p in parts)
            save(plots.surgery(list(found), information, kl, at_limit), folder / "surgery.png")
    _note_limit(found[config.split], data.sizes[config.split])
    _warn_of_collapse(found[config.split])


def _note_limit(parts: Surgery, most: int) -> None:
    """Note if N datapoints of a split of `most` are too few for I(x; z)."""
    if parts.mutual_information_at_limit:
        N = parts.num_data
        log.log(
            NOTE,
            "%s %s too few for I(x; z), which is at most log N (%.2f nats): it is a lower bound, and the marginal KL "
            "an upper bound; %s",
            datapoints(N), "is" if N == 1 else "are", math.log(N),
            f"a larger num_data, up to {most}, raises the limit" if most > N else "the split has no more datapoints",
        )  # fmt: skip


def _warn_of_collapse(parts: Surgery) -> None:
    """Warn if most latent dimensions do not depend on x."""
    if parts.is_collapsed:
        log.warning(
            "posterior collapse: %d of %d latent dimensions are active, I(x; z) %s %.2f nats: use a smaller "
            "latent_dim, or train longer",
            parts.active_units, parts.latent_dim, ">=" if parts.mutual_information_at_limit else "=",
            parts.mutual_information,
        )  # fmt: skip


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
            lines.append(f"  {key:<19}{''.join(f'{_shown(key, row):>12}' for row in rows.values())}")
    log.info("\n".join(lines))


def _shown(name: str, row: dict[str, Any]) -> str:
    """Format an entry, with a sign if it is only a bound."""
    value = row[name]
    sign = {"mutual_information": ">= ", "marginal_kl": "<= "}.get(name, "")
    form = ".3f" if isinstance(value, float) else "d"
    return sign * row.get("mutual_information_at_limit", False) + format(value, form)
