"""The runs of a sweep side by side: means and standard errors over seeds."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro_vae.errors import BadInput, printable
from pyro_vae.marginal.summary import number
from pyro_vae.runs import plots
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import option
from pyro_vae.runs.plain import read_yaml

log = logging.getLogger(__name__)

MAX_LABEL = 200
"""Characters of the options of a run in tables and figures."""

QUANTITIES = ("elbo", "log_px")


def runs_of(folder: Path) -> list[Path]:
    """The runs of a sweep, in order of their number; none where `folder` is no sweep.

    Raises:
        BadInput: if it is a sweep of which no run is finished.
    """
    jobs = sorted((d for d in folder.glob("*") if (d / ".hydra").is_dir()), key=lambda d: (len(d.name), d.name))
    for link in filter(Path.is_symlink, jobs):
        log.warning("warning: %s is a symbolic link and left out: an evaluation would be written elsewhere", link)
    jobs = [job for job in jobs if not job.is_symlink()]
    done = [job for job in jobs if Checkpoints(job).best.is_file() and (job / "results.json").is_file()]
    if jobs and not done:
        raise BadInput(f"run={folder}: none of its {len(jobs)} runs is finished")
    for job in jobs:
        if job not in done:
            log.warning(
                "warning: %s is not finished and left out: train %s goes on with it", job, option("resume", job)
            )
    return done


def labels(runs: list[Path]) -> dict[Path, str]:
    """The options by which runs differ, but for the seed."""
    options = {run: _overrides(run / ".hydra" / "overrides.yaml") for run in runs}
    common = set.intersection(*map(set, options.values()))
    return {
        run: _label(o for o in own if o not in common and o.partition("=")[0] != "seed") for run, own in options.items()
    }


def _label(options: Iterable[str]) -> str:
    """Options in one line of a table; a stranger's may be long, and hold what a terminal would obey."""
    text = printable(" ".join(options)) or "all"
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 3]}..."


def _overrides(path: Path) -> list[str]:
    """The options that a run was started with.

    Raises:
        BadInput: if the file is not a list of options.
    """
    options = read_yaml(path)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadInput(f"{path} was not written by pyro_vae: it must list the options of a run")
    return options


def compare(summaries: Mapping[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each choice of options, the highest log p(x) first.

    Means of the runs' results, nats per datapoint, and their standard errors, sd / √n: how much another seed would
    change them. None for a single run; and where a run's result is no number, so is the mean.
    """
    groups: dict[str, list[Path]] = {}
    for run, label in labels(list(summaries)).items():
        groups.setdefault(label, []).append(run)
    rows = []
    for label, runs in groups.items():
        row: dict[str, Any] = {"options": label, "num_runs": len(runs)}
        for name in QUANTITIES:
            values = [summaries[run][name] for run in runs]
            known = None not in values
            row[name] = statistics.fmean(values) if known else None
            row[f"{name}_se"] = statistics.stdev(values) / math.sqrt(len(values)) if known and len(values) > 1 else None
        rows.append({**row, "unreliable": max(summaries[run]["unreliable"] for run in runs), "runs": [*map(str, runs)]})
    return sorted(rows, key=lambda row: math.inf if row["log_px"] is None else -row["log_px"])


def incomparable(summaries: Iterable[Mapping[str, Any]]) -> str | None:
    """A warning where the runs' log p(x) are not of the same kind, by `of` in their summaries."""
    one, *others = (summary["of"] for summary in summaries)
    mixed = [what for what, value in one.items() if any(other[what] != value for other in others)]
    return f"warning: these log p(x) do not compare, among the runs are {', '.join(mixed)}" if mixed else None


def table(rows: list[dict[str, Any]], title: str) -> str:
    """The rows for people."""
    width = max(len("options"), *(len(row["options"]) for row in rows))
    head = f"  {'options':<{width}}  runs  {'elbo':>18}  {'log_px':>18}  unreliable"
    lines = [
        f"  {row['options']:<{width}}  {row['num_runs']:4d}  {_cell(row, 'elbo')}  {_cell(row, 'log_px')}"
        f"  {row['unreliable']:10.3f}"
        for row in rows
    ]
    several = " ± standard error over runs" if any(row["num_runs"] > 1 for row in rows) else ""
    return "\n".join([f"{title}: mean{several} (nats per datapoint)", head, *lines])


def _cell(row: dict[str, Any], name: str) -> str:
    """The mean and, of several runs, its standard error."""
    se = row[f"{name}_se"]
    return f"{number(row[name], '.3f'):>10}" + (" " * 8 if se is None else f" ± {se:5.3f}")


def draw(rows: list[dict[str, Any]], summaries: Mapping[Path, dict[str, Any]], path: Path) -> None:
    """The table as a figure, each run a point."""
    points = {row["options"]: _drawn(summaries[Path(run)]["log_px"] for run in row["runs"]) for row in rows}
    plots.comparison(points, _drawn(row["log_px"] for row in rows), _drawn(row["log_px_se"] for row in rows), path)


def _drawn(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
