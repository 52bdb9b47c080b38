"""How far a long task has come: a bar on terminals and in notebooks, elsewhere lines in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pyro_vae import distributed

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Time between two lines in the log."""

DELAY = 1.0
"""A bar appears after so many seconds: short tasks need none."""

_split: ContextVar[str] = ContextVar("split", default="")

Tick = Callable[[int], Any]
"""Called with the number of units done since the last call."""


def shows_bars() -> bool:
    """Whether a progress bar on stderr is seen: on a terminal or in a notebook, by the first of several processes."""
    return distributed.rank() == 0 and (sys.stderr.isatty() or _in_notebook())


@contextmanager
def of_split(name: str) -> Iterator[None]:
    """Within, tasks are shown with the name of the split that they are of, as in `test: drawing figures`."""
    token = _split.set(f"{name}: ")
    try:
        yield
    finally:
        _split.reset(token)


@contextmanager
def progress(task: str, total: int, unit: str = "it") -> Iterator[Tick]:
    """Show how far a task has come.

    Where no bar can be seen, the log gets a line at the start and another every `SECONDS`.

    Args:
        task: what is done, as in `drawing figures`.
        total: units of work.
        unit: their name.

    Yields:
        A function to call with the number of units done since its last call.

    Example:
        >>> with progress("adding", total=10) as tick:
        ...     for i in range(10):
        ...         tick(1)
    """
    task = _split.get() + task
    if shows_bars():
        with (
            logging_redirect_tqdm(),
            tqdm(total=total, desc=task, unit=unit, unit_scale=True, leave=False, delay=DELAY) as bar,
        ):
            yield bar.update
    elif distributed.rank() == 0:
        log.info("%s ...", task)
        yield _Lines(task, total)
    else:
        yield lambda units: None


class Shares:
    """Tells `tick` of `total` units in equal shares, one a call, rounded so that they sum to `total`.

    Args:
        tick: what to tell.
        total: units of all calls together.
        calls: how many there will be.
    """

    def __init__(self, tick: Tick, total: int, calls: int) -> None:
        self.tick, self.total, self.calls, self.called, self.told = tick, total, max(1, calls), 0, 0

    def __call__(self, calls: int = 1) -> None:
        """Count this call, or several at once."""
        self.called += calls
        now = min(self.total, self.total * self.called // self.calls)
        self.tick(now - self.told)
        self.told = now


class _Lines:
    def __init__(self, task: str, total: int) -> None:
        self.task, self.total, self.done = task, total, 0
        self.started = self.last = time.monotonic()

    def __call__(self, units: int) -> None:
        self.done += units
        now = time.monotonic()
        if now - self.last < SECONDS or not 0 < self.done < self.total:
            return
        self.last = now
        left = (now - self.started) * (self.total - self.done) / self.done
        log.info("%s: %.0f %% done, about %.0f s left", self.task, 100 * self.done / self.total, left)


def _in_notebook() -> bool:
    """Whether stderr goes to a Jupyter notebook, where it is not a terminal but shows bars."""
    kernel = sys.modules.get("ipykernel.iostream")
    return kernel is not None and isinstance(sys.stderr, kernel.OutStream)
