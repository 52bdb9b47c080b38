"""Decides whether a run is long enough to repay compiling its steps, or only tracing them."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable

import torch

from pyro_vae.compilation.compiled import COMPILE_SECONDS, TRACE_SECONDS

log = logging.getLogger(__name__)

SAVED = 0.4
"""Approximate share of a step's time that compiling saves."""

SAVED_BY_TRACING = 0.2
"""Approximate share that tracing saves, beyond which compiling saves `SAVED`."""


def pays_back(step: Callable[[], None], num_steps: float, max_seconds: float | None) -> tuple[bool, bool]:
    """Return whether compiling, or else tracing, saves more time than it takes.

    Args:
        step: a step.
        num_steps: how many follow.
        max_seconds: time for them.
    """
    each = seconds(step)
    total = min(num_steps * each, max_seconds or math.inf)
    compiles = total * SAVED > COMPILE_SECONDS
    verdict = "compiling" if compiles else f"too few to pay for compiling, {COMPILE_SECONDS:.0f} s or so"
    log.info("trainer.compile=auto: %s steps of %.2f ms: %s", f"{num_steps:,.0f}", 1e3 * each, verdict)
    return compiles, not compiles and total * SAVED_BY_TRACING > 2 * TRACE_SECONDS  # steps and validation


def seconds(step: Callable[[], None], repeats: int = 5) -> float:
    """Return the median time of several calls of `step`."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
