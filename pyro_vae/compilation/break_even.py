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
BACKGROUND = 0.5
"""Approximate share of the time to compile that is lost if another process compiles during the first steps."""


def pays_back(step: Callable[[], None], num_steps: float, max_seconds: float | None, background: bool = False) -> bool:
    """Return whether compiling saves more time than it takes in `num_steps` calls of `step` or in `max_seconds`.

    With `background`, another process compiles during the first of these calls.
    """
    each = seconds(step)
    total = min(num_steps * each, max_seconds or math.inf)
    cost = COMPILE_SECONDS * (BACKGROUND if background else 1.0)
    worth_it = total * SAVED > cost
    how = "compiling in the background" if background else "compiling"
    verdict = how if worth_it else f"too few to pay for compiling, {cost:.0f} s or so"
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
