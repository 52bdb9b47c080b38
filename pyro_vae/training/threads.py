"""Chooses the number of threads of a training.

OpenMP's threads wait for each other in a busy loop. If another process occupies one of their cores, each wait may last
until the operating system switches processes: a step with all threads can take ten times as long as with one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pyro_vae.compilation.break_even import seconds
from pyro_vae.parallel import collectives
from pyro_vae.training.state import State

log = logging.getLogger(__name__)

GAIN = 1.5
"""Minimal ratio of times for one thread to replace all: on an idle machine, those of small steps may differ by less."""
SECONDS = 0.1
"""Minimal time of a turn of steps: many times as long as another process occupies a core at once."""
LONG = 0.5
"""Seconds of a step that is too long to be measured with one thread; waiting matters little then."""


def settle(step: Callable[[], None], state: State) -> None:
    """Choose all threads or one before the first step of a training, whichever makes `step` faster.

    The training keeps this number, since another one would round sums differently. Nothing changes if the user has
    set the number.
    """
    if state.compiled is None and not any(collectives.gather(is_set())):
        state.threads = collectives.from_rank_0(_faster(step))
        torch.set_num_threads(state.threads)


@contextmanager
def using(number: int | None) -> Iterator[None]:
    """Use this number of threads, unless it is None or the user has set another; restore the number afterwards."""
    before = torch.get_num_threads()
    if number is not None and not is_set():
        torch.set_num_threads(max(1, min(number, before)))
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def is_set() -> bool:
    """Return whether the user has set the number of threads, or torch leaves a core to other processes."""
    return "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() < max(2, num_cores())


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _faster(step: Callable[[], None]) -> int:
    every = torch.get_num_threads()
    if seconds(step, repeats=1) > LONG:
        return every
    # the minimum of two turns ignores short disturbances
    all_threads, one_thread = map(min, zip(*((_mean(step, every), _mean(step, 1)) for _ in range(2)), strict=True))
    chosen = 1 if all_threads > GAIN * one_thread else every
    log.info(
        "using %d of %d threads: %.2f ms per step with all, %.2f with one; OMP_NUM_THREADS sets the number",
        *(chosen, every, 1e3 * all_threads, 1e3 * one_thread),
    )
    return chosen


def _mean(step: Callable[[], None], number: int) -> float:
    """Return the mean time of a step with this number of threads."""
    torch.set_num_threads(number)
    step()  # meanwhile, threads that are not used any more stop to wait for work
    taken: list[float] = []
    while sum(taken) < SECONDS:
        taken.append(seconds(step, repeats=1))
    return sum(taken) / len(taken)
