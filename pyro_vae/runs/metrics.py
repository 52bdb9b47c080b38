"""metrics.csv and TensorBoard events: one row per epoch."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from pyro_vae.errors import BadInput
from pyro_vae.runs import files
from pyro_vae.runs.files import Folder

log = logging.getLogger(__name__)

NAME = "metrics.csv"
COLUMNS = ("epoch", "step", "train/elbo", "train/kl", "train/log_likelihood", "val/elbo", "seconds")
MAX_BYTES = 2**25
"""Largest file, 350,000 epochs. In memory, damaged rows take up to a hundred times as much."""
LARGEST = 1e100
"""Larger numbers count as damaged, since figures overflow near the largest float."""


class Metrics:
    """Appends rows to `run_dir/metrics.csv` and to TensorBoard events beside it; a context manager.

    Args:
        run_dir: the run directory.
        epoch: the epoch to continue from; rows after it belong to lost work and are dropped.
    """

    def __init__(self, run_dir: Path, epoch: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        rows = [row for row in read(run_dir) if row["epoch"] <= epoch] if epoch else []
        with Folder(run_dir) as folder:
            if epoch and not rows and NAME in folder.names():
                folder.move(NAME, folder, f"{NAME}.unreadable")
            folder.write(NAME, text(rows).encode())
            self.file = folder.append(NAME)
        # with a random name, which nobody can have put a link at
        suffix = f".{secrets.token_hex(8)}"
        self.events = SummaryWriter(str(run_dir), purge_step=epoch + 1, filename_suffix=suffix)

    def write(self, row: dict[str, float]) -> None:
        """Append a row with `COLUMNS` as keys; it is on disk on return."""
        csv.DictWriter(self.file, COLUMNS).writerow(row)
        self.file.flush()
        os.fsync(self.file.fileno())
        for name, value in row.items():
            if "/" in name:
                self.events.add_scalar(name, value, int(row["epoch"]))

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file.close()
        self.events.close()


def text(rows: Iterable[dict[str, float]]) -> str:
    """Return the content of metrics.csv with these rows."""
    content = io.StringIO()
    writer = csv.DictWriter(content, COLUMNS)
    writer.writeheader()
    writer.writerows({**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows)
    return content.getvalue()


def read(run_dir: Path) -> list[dict[str, float]]:
    """Read the rows of `run_dir/metrics.csv` as numbers, leaving out damaged ones with a warning.

    Only figures need them, so a missing or completely damaged file counts as empty.
    """
    path = run_dir / NAME
    try:
        content = files.read(path, limit=MAX_BYTES).decode(errors="replace").replace("\0", "")
        table = csv.DictReader(io.StringIO(content, newline=""))
        lines = list(table)
        if not set(COLUMNS) <= set(table.fieldnames or ()):
            raise BadInput(f"{path} is damaged: its columns must be {', '.join(COLUMNS)}")
    except (BadInput, csv.Error) as error:
        log.warning("the previous epochs are left out of figures: %s", error)
        return []
    if lines and None in lines[-1].values():
        lines.pop()  # an unfinished last row, e.g. after a power cut
    rows = [row for row in map(_numbers, lines) if row is not None]
    if len(rows) < len(lines):
        log.warning("%s is damaged: %d of its rows are left out of figures", path, len(lines) - len(rows))
    return rows


def _numbers(line: dict[str, str]) -> dict[str, float] | None:
    """Convert a row to numbers; None if no run writes such a row. Only the validation ELBO may be NaN."""
    try:
        row = {name: float(line[name]) for name in COLUMNS}
    except (KeyError, TypeError, ValueError):
        return None
    whole = row["epoch"].is_integer() and row["step"].is_integer()
    known = (value for name, value in row.items() if not (name == "val/elbo" and math.isnan(value)))
    return row if whole and all(abs(value) < LARGEST for value in known) else None
