"""Files about new data in a run directory: anomaly scores, embeddings and imputations, with row numbers."""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from pyro_vae.analysis.anomaly import CAUTION, AnomalyScores, Measures, compare, measure
from pyro_vae.data import Split
from pyro_vae.errors import datapoints
from pyro_vae.marginal import Estimator
from pyro_vae.marginal.summary import number, summarize, verdict
from pyro_vae.programs.notes import NOTE
from pyro_vae.runs import files
from pyro_vae.runs.figures import array, drawing, save
from pyro_vae.runs.new_data import NewData
from pyro_vae.runs.paired import with_error
from pyro_vae.runs.plots import scores as score_plots
from pyro_vae.runs.results import keep_earlier, write_json
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

NUM_SHOWN = 10
"""Number of rows that are printed."""
OF = ("new rows", "held-out datapoints")


def score(vae: VAE, new: NewData, held_out: Split, estimator: Estimator, config: DictConfig, path: Path) -> None:
    """Score new data against held-out data: print the most unusual rows, write NAME.csv, NAME.npz and a figure.

    Args:
        vae: the model.
        new: the rows.
        held_out: data of the run that were held out of training.
        estimator: of log p(x).
        config: of the command.
        path: of the files, without their suffixes.
    """
    measures: list[Measures] = []
    for name, split in zip(OF, (new.split, held_out), strict=True):
        y = vae.taken_labels(split.y)
        with _warnings_in_log(f"{name}: "):
            measures.append(measure(*vae.programs(y), split.x, estimator, y, num_steps=config.num_steps))
    with _warnings_in_log():
        scores = compare(*measures)
    arrays = {"row": np.arange(len(new.split))}
    arrays |= {name: array(value) for name, value in scores.items() if value is not None}
    named = {} if new.frame is None else {"columns": np.array(new.entries)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **named)  # type: ignore[arg-type]
    parts = (".csv", ".json", "-histogram.png")
    _write(_file(path, ".npz"), buffer.getvalue(), *(_file(path, ending).name for ending in parts))
    _write(_file(path, ".csv"), _csv(*_table(scores, new)))
    settings = OmegaConf.to_container(config.estimator)
    about = {"path": new.path, "num_data": len(new.split), "split": config.split, "num_held_out": len(held_out)}
    about |= {"estimator": estimator.name, "num_samples": estimator.num_samples, "seed": config.seed}
    write_json(_file(path, ".json"), {**about, "num_steps": config.num_steps, "settings": settings})
    if config.plots:
        with drawing(path.parent):
            axes = score_plots.among_held_out(arrays["held_out_log_px"], arrays["log_px"], config.split)
            save(axes, _file(path, "-histogram.png"))
    log.info(_summary(scores, new, f"{datapoints(len(held_out))} held out of training (split={config.split})"))
    summaries = [summarize(each.evidence, estimator.name) for each in measures]
    for name, summary in zip(OF, summaries, strict=True):
        log.info("%s: log p(x) is %s on average (nats)", name, with_error(summary.log_px, summary.log_px_se, ".3f"))
    log.info("written: %s", _file(path, ".csv"))
    for name, summary in zip(OF, summaries, strict=True):
        if warning := verdict(summary, estimator):
            log.warning("%s: %s", name, warning)
    log.log(NOTE, CAUTION)


def embed(vae: VAE, new: NewData, path: Path) -> None:
    """Write the means of q(z | x) to NAME-embeddings.csv: row, z1, z2, …"""
    z = vae.encode(new.split.x, y=_labels(vae, new))
    names = ["row", *(f"z{i + 1}" for i in range(z.shape[1]))]
    rows = ([i, *values] for i, values in enumerate(z.tolist()))
    _write(_file(path, "-embeddings.csv"), _csv(names, rows))
    log.info("written: %s", _file(path, "-embeddings.csv"))


def impute(vae: VAE, new: NewData, num_samples: int, path: Path) -> None:
    """Write draws of the missing values: of a table to NAME-imputed.csv, else to NAME-imputed.npz.

    The columns of the CSV file are `row`, `draw` and those of the table.
    """
    if not new.has_holes:
        log.warning("%s has no missing values: there is nothing to impute", new.path)
        return
    x, y = (new.split.x, _labels(vae, new)) if new.frame is None else (new.frame, None)  # a frame holds its covariates
    with _warnings_in_log():
        draws = vae.impute(x, y=y, num_samples=num_samples)
    if new.frame is not None:
        file = _file(path, "-imputed.csv")
        cells = ([i, k, *row] for k, frame in enumerate(draws) for i, row in enumerate(frame.iter_rows()))
        _write(file, _csv(["row", "draw", *new.frame.columns], cells))
    else:
        file, buffer = _file(path, "-imputed.npz"), io.BytesIO()
        np.savez(buffer, row=np.arange(len(new.split)), imputed=array(draws))
        _write(file, buffer.getvalue())
    log.info("written: %s", file)


def _table(scores: AnomalyScores, new: NewData) -> tuple[list[str], Iterable[list[Any]]]:
    """Return the names and rows of NAME.csv."""
    columns: dict[str, list[Any]] = {"row": list(range(len(scores.log_px)))}
    for name, value in scores.items():
        if isinstance(value, Tensor) and value.shape == scores.log_px.shape and name != "held_out_log_px":
            columns[name] = value.tolist()
    if (index := _least_likely(scores)) is not None:
        columns["least_likely_entry"] = [new.entries[i] for i in index.tolist()]
    if new.frame is not None:
        for what in ("contribution", "contribution_tail_probability"):
            values = scores["contributions" if what == "contribution" else what]
            for name, column in zip(new.entries, [] if values is None else values.T.tolist(), strict=False):
                columns[f"{what}:{name}"] = column
    return list(columns), (list(row) for row in zip(*columns.values(), strict=True))


def _least_likely(scores: AnomalyScores) -> Tensor | None:
    """Return the index of each row's entry with the smallest tail probability, of equal ones the least likely."""
    if scores.contributions is None or scores.contribution_tail_probability is None:
        return None
    p = scores.contribution_tail_probability.reshape(len(scores.log_px), -1).nan_to_num(2.0)
    tied = p == p.amin(1, keepdim=True)
    return torch.where(tied, scores.contributions.reshape(p.shape).nan_to_num(torch.inf), torch.inf).argmin(1)


def _summary(scores: AnomalyScores, new: NewData, held_out: str) -> str:
    """Return a table of the rows with the smallest tail probabilities."""
    names, rows = _table(scores, new)
    kept = [dict(zip(names, row, strict=True)) for row in rows]
    kept.sort(key=lambda row: (row["tail_probability"], row["log_px"]))
    lines = [
        f"{datapoints(len(kept))} of {new.path}, compared with {held_out}; the most unusual first",
        "     row    log p(x)   tail probability     regret   tail    least likely entry",
    ]
    for row in kept[:NUM_SHOWN]:
        tail = f"{row['tail_probability']:.4f} ± {row['tail_se']:.4f}"
        regret = [number(row.get("regret"), ".2f"), number(row.get("regret_tail_probability"), ".4f")]
        mark = "?" if row["unreliable"] else " "
        lines.append(
            f"{row['row']:>8} {row['log_px']:>11.3f}{mark} {tail:>18} {regret[0]:>10} {regret[1]:>6}    "
            f"{row.get('least_likely_entry', '-')[:30]}"
        )
    if any(row["unreliable"] for row in kept[:NUM_SHOWN]):
        lines.append("?: this estimate of log p(x) is unreliable, and likely too low")
    return "\n".join(lines)


def _labels(vae: VAE, new: NewData) -> Tensor | None:
    return vae.taken_labels(new.split.y)


def _file(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _write(path: Path, content: bytes, *beside: str) -> None:
    """Write a file; an earlier one with other content is kept, with the files beside it."""
    keep_earlier(path, content, *beside)
    files.write(path, content)


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the content of a CSV file in UTF-8; NaN and None become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if isinstance(cell, float) and cell != cell else cell for cell in row])
    return text.getvalue().encode()


@contextmanager
def _warnings_in_log(prefix: str = "") -> Iterator[None]:
    """Write Python warnings to the log, with a prefix, and without the file and line that Python would show."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.warning("%s%s", prefix, message)
