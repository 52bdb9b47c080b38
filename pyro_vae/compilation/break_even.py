"""Decides whether a run is long enough to repay the compilation of its steps."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable

import torch

from pyro_vae.compilation.compiled import COMPILE_SECONDS

log = logging.getLogger(__name__)

SAVED = 0.4
"""Approximate share of a step's time that compilation saves."""


def pays_back(step: Callable[[], None], num_steps: float, max_seconds: float | None) -> bool:
    """Return whether compiling saves more time than it takes in `num_steps` calls of `step` or in `max_seconds`."""
    each = seconds(step)
    total = min(num_steps * each, max_seconds or math.inf)
    worth_it = total * SAVED > COMPILE_SECONDS
    verdict = "compiling" if worth_it else f"too few to pay for compiling, {COMPILE_SECONDS:.0f} s or so"
    log.info("trainer.compile=auto: %s steps of %.2f ms: %s", f"{num_steps:,.0f}", 1e3 * each, verdict)
    return worth_it


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
