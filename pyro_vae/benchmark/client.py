"""Who is timed when: in rounds, each of which times everyone once, in random order."""

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
"""Seconds before each piece: the last one's OpenMP threads spin a while before they sleep."""


class Failed(Exception):
    """A contender could not do a work; says why in one line."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """That of these."""
        low, middle, high = statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive")
        return cls(middle, (low, high))


@dataclass
class Timing:
    """What has been measured of one contender in one work.

    Attributes:
        first_seconds: from the start of its imports to the end of the first repetition at full speed, the compiler's
            work, if there is any, included.
        units: steps or datapoints that a repetition counts for.
        repetitions: in a piece.
        ms: milliseconds a unit, of each round's piece.
        peak_mib: the most memory its process has held, MiB.
        failed: why there is nothing more.
    """

    first_seconds: float = math.nan
    units: float = 1
    repetitions: int = 0
    ms: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    failed: str | None = None

    @property
    def spread(self) -> Spread:
        """Of the milliseconds."""
        return Spread.of(self.ms)

    def ratio(self, baseline: Timing) -> Spread:
        """How many times the baseline's time, round by round."""
        return Spread.of([mine / its for mine, its in zip(self.ms, baseline.ms, strict=True)])

    def as_dict(self, baseline: Timing | None) -> dict[str, Any]:
        """All of it, with medians and quartiles, for JSON."""
        if self.failed is not None:
            return {"failed": self.failed}
        ratio = None if baseline is None else asdict(self.ratio(baseline))
        measured = {key: value for key, value in asdict(self).items() if key != "failed"}
        return {**measured, **asdict(self.spread), "ratio": ratio}


class Worker:
    """A contender's process.

    Args:
        contender: whose.
        environment: variables that differ from this process'.
        errors: where its stderr goes.
    """

    def __init__(self, contender: Contender, environment: Mapping[str, str], errors: IO[str]) -> None:
        self.contender = contender
        self.cache = tempfile.TemporaryDirectory()  # empty: what compiling takes is told as it is without a cache
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
            self.process.stdin.close()  # no more requests: it ends, and with it the processes it has started
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.cache.cleanup()

    def set_up(self, work: str, seed: int, num_threads: int | None) -> Timing:
        """Import, build, compile, run once.

        Raises:
            Failed: if it could not.
        """
        answer = self._ask(work=work, options=self.contender.options, seed=seed, num_threads=num_threads)
        return Timing(first_seconds=answer["seconds"], units=answer["units"])

    def run(self, work: str, repetitions: int) -> float:
        """Seconds of so many repetitions.

        Raises:
            Failed: if it could not.
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
    """How many repetitions take about so long, where `run(n)` does n in the seconds it returns."""
    n = 1
    while (taken := run(n)) < seconds / 3:
        n = min(10 * n, math.ceil(n * seconds / max(taken, 1e-9)))
    return max(1, round(n * seconds / taken))


def rounds(pieces: Mapping[Any, Callable[[], None]], num_rounds: int, rng: random.Random) -> None:
    """Call every piece once a round, in random order; one that raises `Failed` is called no more."""
    left = dict(pieces)
    for _ in range(num_rounds):
        for name in rng.sample(list(left), len(left)):
            try:
                left[name]()
            except Failed:
                del left[name]
