"""Starts contenders in separate processes, and times them in rounds, each in random order."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from pyro_vae.benchmark.contenders import Contender

PAUSE = 0.2
"""Seconds to wait before each timing: OpenMP threads of the previous one spin for a while before they sleep."""


class Failed(Exception):
    """A contender failed at a work; the message gives the reason in one line."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Compute median and quartiles of these values."""
        low, middle, high = statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive")
        return cls(middle, (low, high))


@dataclass
class Timing:
    """Measurements of one contender at one work.

    Attributes:
        first_seconds: from the start of the imports to the end of the first repetition, including compilation.
        units: number of steps or datapoints in a repetition.
        repetitions: number of repetitions per round.
        ms: milliseconds per unit in each round.
        peak_mib: peak memory of the process in MiB.
        failed: the reason, if the contender failed.
    """

    first_seconds: float = math.nan
    units: float = 1
    repetitions: int = 0
    ms: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    failed: str | None = None

    @property
    def spread(self) -> Spread:
        """Median and quartiles of `ms`."""
        return Spread.of(self.ms)

    def ratio(self, baseline: Timing) -> Spread:
        """Return median and quartiles of the ratios to the baseline's times in the same rounds."""
        return Spread.of([mine / its for mine, its in zip(self.ms, baseline.ms, strict=True)])

    def as_dict(self, baseline: Timing | None) -> dict[str, Any]:
        """Return all fields, with median, quartiles and ratio to the baseline, for JSON."""
        if self.failed is not None:
            return {"failed": self.failed}
        ratio = None if baseline is None else asdict(self.ratio(baseline))
        measured = {key: value for key, value in asdict(self).items() if key != "failed"}
        return {**measured, **asdict(self.spread), "ratio": ratio}


class Worker:
    """A process that runs a contender.

    Args:
        contender: the contender.
        environment: environment variables to add or replace.
        errors: file for the stderr of the process.
    """

    def __init__(self, contender: Contender, environment: Mapping[str, str], errors: IO[str]) -> None:
        self.contender = contender
        self.cache = tempfile.TemporaryDirectory()  # empty, so that the time to compile is measured without a cache
        self.peak_mib: float | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyro_vae.benchmark.worker", contender.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment, "TORCHINDUCTOR_CACHE_DIR": self.cache.name},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # without further requests, it ends together with its child processes
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.cache.cleanup()

    def set_up(self, work: str, seed: int, num_threads: int | None) -> Timing:
        """Import the contender, build and compile the work, and run it once.

        Raises:
            Failed: if any of this fails.
        """
        answer = self._ask(work=work, options=self.contender.options, seed=seed, num_threads=num_threads)
        return Timing(first_seconds=answer["seconds"], units=answer["units"])

    def run(self, work: str, repetitions: int) -> float:
        """Run a work and return the seconds that all repetitions took.

        Raises:
            Failed: if the work fails.
        """
        time.sleep(PAUSE)
        return float(self._ask(work=work, repetitions=repetitions)["seconds"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"its process ended with status {self.process.wait()}, see workers.log")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        self.peak_mib = answer["peak_mib"]
        return answer


def calibrate(run: Callable[[int], float], seconds: float) -> int:
    """Return how many repetitions take about `seconds`; `run(n)` returns the seconds that n repetitions take.

    The shorter of two runs counts: in an early one, `Compiled` traces a program or checks its trace.
    """
    n = 1
    while (taken := min(run(n), run(n))) < seconds / 3:
        n = min(10 * n, math.ceil(n * seconds / max(taken, 1e-9)))
    return max(1, round(n * seconds / taken))


def rounds(pieces: Mapping[Any, Callable[[], None]], num_rounds: int, rng: random.Random) -> None:
    """Call every piece once per round, in random order. A piece that raises `Failed` is not called again."""
    left = dict(pieces)
    for _ in range(num_rounds):
        for name in rng.sample(list(left), len(left)):
            try:
                left[name]()
            except Failed:
                del left[name]
