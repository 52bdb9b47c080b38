"""metrics.csv and TensorBoard events: one row an epoch."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from types import TracebackType

from pyro_vae.checkpoint import write_atomically

COLUMNS = ("epoch", "step", "train/elbo", "train/kl", "train/log_likelihood", "val/elbo", "seconds")


class Metrics:
    """Appends rows to `run_dir/metrics.csv` and to TensorBoard events beside it; a context manager.

    Args:
        run_dir: the run.
        epoch: the epoch to go on from; rows after it belong to work that was lost, and are dropped.
    """

    def __init__(self, run_dir: Path, epoch: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run_dir / "metrics.csv"
        rows = [row for row in read(run_dir) if row["epoch"] <= epoch] if epoch else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows)
        write_atomically(path, text.getvalue().encode())
        self.file = path.open("a", newline="")
        self.events = SummaryWriter(str(run_dir), purge_step=epoch + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append a row with `COLUMNS` as keys; it is on disk when this returns."""
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


def read(run_dir: Path) -> list[dict[str, float]]:
    """The rows of `run_dir/metrics.csv` as numbers."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        # a last row that a power cut left unfinished has fewer columns
        whole = [row for row in csv.DictReader(file) if all(row.get(name) for name in COLUMNS)]
    return [{name: float(row[name]) for name in COLUMNS} for row in whole]
