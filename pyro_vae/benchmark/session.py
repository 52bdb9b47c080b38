"""Times all contenders at one work."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import IO

from pyro_vae.benchmark.client import Failed, Timing, Worker, calibrate, rounds
from pyro_vae.benchmark.contenders import Contender

log = logging.getLogger(__name__)

Timings = dict[tuple[str, str], Timing]
"""Timings by contender and work."""


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Args:
        rounds: number of rounds; each times every contender once.
        seconds: approximate duration of one timing.
        seed: seed of the data and of the order within rounds.
        num_threads: number of threads of each contender. If None, each contender chooses.
    """

    rounds: int
    seconds: float
    seed: int
    num_threads: int | None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the contenders' processes."""
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC") if self.num_threads else ()  # the last is XLA's
        return {"JAX_PLATFORMS": "cpu", **dict.fromkeys(threads, str(self.num_threads))}


def measure(
    work: str,
    contenders: Mapping[str, Contender],
    settings: Settings,
    errors: IO[str],
    on_piece: Callable[[], object] = lambda: None,
) -> Timings:
    """Set up all contenders one after the other, then time them in rounds.

    For this library's epochs, also time a step on a fixed batch in the same process.

    Args:
        work: name of the work.
        contenders: contenders by name.
        settings: how long to measure.
        errors: file for the stderr of their processes.
        on_piece: called after setting up a contender and after timing it in a round.
    """
    timings: Timings = {}
    pieces: dict[tuple[str, str], Callable[[], None]] = {}

    def piece(worker: Worker, name: str, part: str) -> None:
        timing = timings[name, part]
        try:
            seconds = worker.run(part, timing.repetitions)
        except Failed as error:
            timing.failed = str(error)
            log.info("%s: %s failed: %s", work, name, error)
            raise
        timing.ms.append(1e3 * seconds / (timing.repetitions * timing.units))
        timing.peak_mib = worker.peak_mib
        if part == work:
            on_piece()

    with ExitStack() as stack:
        for name, contender in contenders.items():
            worker = stack.enter_context(Worker(contender, settings.environment, errors))
            for part in (work, "step_100") if work == "epoch" and contender.ours else (work,):
                try:
                    timing = timings[name, part] = worker.set_up(part, settings.seed, settings.num_threads)
                    timing.repetitions = calibrate(partial(worker.run, part), settings.seconds)
                except Failed as error:
                    timings[name, part] = Timing(failed=str(error))
                    log.info("%s: %s failed: %s", work, name, error)
                    break
                pieces[name, part] = partial(piece, worker, name, part)
            else:
                log.info("%s: %s set up, first result after %.1f s", work, name, timings[name, work].first_seconds)
            on_piece()
        rounds(pieces, settings.rounds, random.Random(settings.seed))
    return timings
