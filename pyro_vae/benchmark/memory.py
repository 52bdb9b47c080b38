"""Measures the memory that training needs as the data grow, for data on disk and in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np

from pyro_vae.benchmark.worker import mib
from pyro_vae.errors import FailedRun

GROWTH = 100


@dataclass(frozen=True)
class Source:
    """A kind of data: the smaller number of datapoints, a function that makes n of them, and options to read them."""

    num_data: int
    make: Callable[[Path, int, np.random.Generator], None]
    options: tuple[str, ...]


def mapped(path: Path, n: int, rng: np.random.Generator) -> None:
    """Write a .npy file with n rows of bytes."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 784))
    for i in range(0, n, 1000):
        rows[i : i + 1000] = rng.integers(0, 256, rows[i : i + 1000].shape, dtype=np.uint8)
    rows.flush()


def in_memory(path: Path, n: int, rng: np.random.Generator) -> None:
    """Write a .npz file with n rows of bytes."""
    with path.open("wb") as file:
        np.savez(file, x=rng.integers(0, 256, (n, 784), dtype=np.uint8))


def images(path: Path, n: int, rng: np.random.Generator) -> None:
    """Write n grey 28x28 images as PNG files."""
    from PIL import Image

    for i in range(n):
        folder = path / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{i}.png")


SOURCES = {
    "array, .npy": Source(10_000, mapped, ("data=array", "data.path={path}")),
    "image_folder": Source(
        500, images, ("data=image_folder", "data.root={path}", "data.size=28", "data.channels=1", "data.num_workers=1")
    ),
    "array, .npz": Source(10_000, in_memory, ("data=array", "data.path={path}", "data.key=x")),
}
TRAINING = (
    "data.max_held_out=50",
    "likelihood=continuous_bernoulli",
    "trainer.batch_size=400",
    "trainer.max_epochs=1",
    "trainer.compile=false",
    "trainer.device=cpu",
    "estimator=elbo",
    "estimator.num_samples=1",
)


def peak(source: Source, n: int, seed: int, errors: IO[str], environment: dict[str, str]) -> float:
    """Train on n datapoints for one epoch in a new process, and return its peak memory in MiB.

    Raises:
        FailedRun: if training fails; its output is in `errors`.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        source.make(path, n, np.random.default_rng(seed))
        options = [option.format(path=path) for option in source.options]
        command = [sys.executable, "-m", "pyro_vae.train", *options, *TRAINING, f"hydra.run.dir={folder}/run"]
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise FailedRun(f"memory: {' '.join(command)} exited with status {process.returncode}: see workers.log")
    return mib(usage.ru_maxrss)


def measure(
    seed: int, errors: IO[str], environment: dict[str, str], on_piece: Callable[[], object] = lambda: None
) -> dict[str, dict[str, float]]:
    """Return the peak memory in MiB for each source, with few datapoints and with `GROWTH` times as many."""
    rows = {}
    for name, source in SOURCES.items():
        sizes = (source.num_data, GROWTH * source.num_data)
        row: dict[str, float] = {"num_data": sizes[0]}
        for key, n in zip(("peak_mib", "peak_mib_grown"), sizes, strict=True):
            row[key] = peak(source, n, seed, errors, environment)
            on_piece()
        rows[name] = row
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """Format the peaks as a table."""
    lines = [
        f"peak memory of training in MiB, for N and {GROWTH} N datapoints",
        f"{'':16}{'N':>10}{'at N':>10}{'at 100 N':>10}",
    ]
    for name, row in rows.items():
        lines.append(f"{name:16}{row['num_data']:10,}{row['peak_mib']:10.0f}{row['peak_mib_grown']:10.0f}")
    return "\n".join(lines)
