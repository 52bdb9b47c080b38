"""Compare the runs of a sweep: means and standard errors over seeds."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pyro_vae.errors import BadInput, printable
from pyro_vae.marginal.summary import Summary, number
from pyro_vae.runs import plots
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import option
from pyro_vae.runs.plain import read_yaml

log = logging.getLogger(__name__)

MAX_LABEL = 200
"""Characters of a run's options that tables and figures show."""


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one run.

    Attributes:
        summary: the estimates.
        kind: by name, in what log p(x) of two runs may differ so that they cannot be compared.
    """

    summary: Summary
    kind: Mapping[str, Any]


def runs_of(folder: Path) -> list[Path]:
    """List the finished runs of a sweep, ordered by number; the list is empty if `folder` is not a sweep.

    Raises:
        BadInput: if no run of the sweep is finished.
    """
    jobs = sorted((d for d in folder.glob("*") if (d / ".hydra").is_dir()), key=lambda d: (len(d.name), d.name))
    for link in filter(Path.is_symlink, jobs):
        log.warning("%s is a symbolic link and left out: its evaluation would be written elsewhere", link)
    jobs = [job for job in jobs if not job.is_symlink()]
    done = [job for job in jobs if Checkpoints(job).best.is_file() and (job / "results.json").is_file()]
    if jobs and not done:
        raise BadInput(f"run={folder}: none of its {len(jobs)} runs is finished")
    for job in jobs:
        if job not in done:
            log.warning("%s is not finished and left out: to continue it, train %s", job, option("resume", job))
    return done


def labels(runs: list[Path]) -> dict[Path, str]:
    """Return the options in which runs differ, except the seed."""
    options = {run: _overrides(run / ".hydra" / "overrides.yaml") for run in runs}
    common = set.intersection(*map(set, options.values()))
    return {
        run: _label(o for o in own if o not in common and o.partition("=")[0] != "seed") for run, own in options.items()
    }


def _label(options: Iterable[str]) -> str:
    """Join options to one line of a table. Those of an untrusted run may be long or hold control characters."""
    text = printable(" ".join(options)) or "all"
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 3]}..."


def _overrides(path: Path) -> list[str]:
    """Read the options that a run was started with.

    Raises:
        BadInput: if the file is not a list of options.
    """
    options = read_yaml(path)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadInput(f"{path} was not written by pyro_vae: it must list the options of a run")
    return options


def compare(evaluated: Mapping[Path, Evaluated]) -> list[dict[str, Any]]:
    """Average the runs of each choice of options, the highest log p(x) first.

    A row holds means over runs, in nats per datapoint, and their standard errors, sd / √n, which tell how much another
    seed would change the means. The error of a single run is None, and so is a mean if the value of a run is unknown.
    """
    groups: dict[str, list[Path]] = {}
    for run, label in labels(list(evaluated)).items():
        groups.setdefault(label, []).append(run)
    rows = []
    for label, runs in groups.items():
        summaries = [evaluated[run].summary for run in runs]
        elbo, elbo_se = _mean([summary.elbo for summary in summaries])
        log_px, log_px_se = _mean([summary.log_px for summary in summaries])
        rows.append(
            {
                "options": label,
                "num_runs": len(runs),
                "elbo": elbo,
                "elbo_se": elbo_se,
                "log_px": log_px,
                "log_px_se": log_px_se,
                "unreliable": max((one.unreliable for one in summaries if one.unreliable is not None), default=None),
                "runs": [str(run) for run in runs],
            }
        )
    return sorted(rows, key=lambda row: math.inf if row["log_px"] is None else -row["log_px"])


def _mean(values: list[float | None]) -> tuple[float | None, float | None]:
    """Return the mean of values and its standard error; None where it is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None


def mixed_kinds(evaluated: Iterable[Evaluated]) -> list[str]:
    """Name the kinds in which the runs' log p(x) differ, so that they cannot be compared."""
    one, *others = (each.kind for each in evaluated)
    return [name for name, value in one.items() if any(other[name] != value for other in others)]


def table(rows: list[dict[str, Any]], title: str) -> str:
    """Format the rows of `compare` as a table."""
    width = max(len("options"), *(len(row["options"]) for row in rows))
    head = f"  {'options':<{width}}  runs  {'elbo':>18}  {'log_px':>18}  unreliable (largest)"
    lines = [
        f"  {row['options']:<{width}}  {row['num_runs']:4d}  {_cell(row, 'elbo')}  {_cell(row, 'log_px')}"
        f"  {number(row['unreliable'], '.3f'):>10}"
        for row in rows
    ]
    several = " ± standard error over runs" if any(row["num_runs"] > 1 for row in rows) else ""
    return "\n".join([f"{title}: mean{several} (nats per datapoint)", head, *lines])


def _cell(row: dict[str, Any], name: str) -> str:
    """Format a mean and, for several runs, its standard error."""
    se = row[f"{name}_se"]
    return f"{number(row[name], '.3f'):>10}" + (" " * 8 if se is None else f" ± {se:5.3f}")


def figure(rows: list[dict[str, Any]], evaluated: Mapping[Path, Evaluated]) -> Axes:
    """Draw the table, with a point for each run."""
    points = {row["options"]: _with_nan(evaluated[Path(run)].summary.log_px for run in row["runs"]) for row in rows}
    return plots.comparison(
        points, _with_nan(row["log_px"] for row in rows), _with_nan(row["log_px_se"] for row in rows)
    )


def _with_nan(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
