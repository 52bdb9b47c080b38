"""Progress of long tasks: a bar on terminals and in notebooks, lines elsewhere.

Lines go to the log, or to stderr if `logging` is not configured.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pyro_vae.parallel import collectives

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Seconds between two lines about a task."""

EPOCH_SECONDS = 60.0
"""Seconds after which the next epoch is reported on stderr."""

DELAY = 1.0
"""Seconds before a bar appears; short tasks have none."""

_split: ContextVar[str] = ContextVar("split", default="")

Tick = Callable[[int], Any]
"""Function to call with the number of units done since the last call."""


_shown = ContextVar("_shown", default=True)


@contextmanager
def shown_if(verbose: bool) -> Iterator[None]:
    """Show progress on stderr only if `verbose`; the log always has it."""
    token = _shown.set(verbose)
    try:
        yield
    finally:
        _shown.reset(token)


def shows_bars() -> bool:
    """Return whether to show a progress bar: on a terminal or in a notebook, in the first of several processes."""
    return _shown.get() and collectives.rank() == 0 and (sys.stderr.isatty() or _in_notebook())


def beside_bar() -> AbstractContextManager[Any]:
    """Keep lines of the log from breaking the bar, if one is shown."""
    return logging_redirect_tqdm() if shows_bars() else nullcontext()


@contextmanager
def of_split(name: str) -> Iterator[None]:
    """Show tasks with the name of their split, e.g. `test: drawing figures`."""
    token = _split.set(f"{name}: ")
    try:
        yield
    finally:
        _split.reset(token)


@contextmanager
def progress(task: str, total: int, unit: str = "it") -> Iterator[Tick]:
    """Show the progress of a task.

    Without a bar, a line is shown every `SECONDS`; the log also has one at the start.

    Args:
        task: name of the task, e.g. `drawing figures`.
        total: number of units of work.
        unit: name of a unit.

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
            beside_bar(),
            tqdm(total=total, desc=task, unit=unit, unit_scale=True, leave=False, delay=DELAY) as bar,
        ):
            yield bar.update
    elif collectives.rank() == 0:
        log.info("%s ...", task)
        yield _Lines(task, total)
    else:
        yield lambda units: None


def say(log: logging.Logger, line: str) -> None:
    """Write a line to the log or, if `logging` is not configured, to stderr."""
    if _logging_is_configured(log):
        log.info("%s", line)
    elif _shown.get() and collectives.rank() == 0:
        print(line, file=sys.stderr, flush=True)


class Shares:
    """Reports `total` units to `tick` in equal shares, one per call, rounded so that they sum to `total`.

    Args:
        tick: called with the number of units done.
        total: total number of units.
        calls: number of calls.
    """

    def __init__(self, tick: Tick, total: int, calls: int) -> None:
        self.tick, self.total, self.calls, self.called, self.told = tick, total, max(1, calls), 0, 0

    def __call__(self, calls: int = 1) -> None:
        """Count one call, or several at once."""
        self.called += calls
        now = min(self.total, self.total * self.called // self.calls)
        self.tick(now - self.told)
        self.told = now


class Epochs:
    """Reports epochs: each in the log; on stderr at most ten, one per minute, and the last.

    Args:
        log: receives the lines if `logging` is configured.
        num_epochs: largest number of epochs.
    """

    def __init__(self, log: logging.Logger, num_epochs: int) -> None:
        self.log, self.every = log, math.ceil(num_epochs / 10)
        self.told, self.pending = -math.inf, ""

    def __enter__(self) -> Epochs:
        return self

    def __exit__(self, *_: object) -> None:
        """Report the last epoch, if it has not been reported."""
        if self.pending:
            _to_stderr(self.pending)

    def tell(self, line: str, row: dict[str, float]) -> None:
        """Report an epoch as `line % row`, if it is due.

        Args:
            line: format with the names in `row`.
            row: the epoch's metrics, including `epoch`.
        """
        if _logging_is_configured(self.log):
            self.log.info(line, row)
            return
        self.pending, now = line % row, time.monotonic()
        if row["epoch"] % self.every == 0 or now - self.told >= EPOCH_SECONDS:
            _to_stderr(self.pending)
            self.told, self.pending = now, ""


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
        line = f"{self.task}: {100 * self.done / self.total:.0f} % done, about {left:.0f} s left"
        if _logging_is_configured(log):
            log.info("%s", line)
        else:
            _to_stderr(line)


def _logging_is_configured(log: logging.Logger) -> bool:
    """Return whether messages of this logger have a handler, or are disabled."""
    return log.hasHandlers() or log.disabled


def _to_stderr(line: str) -> None:
    if _shown.get() and collectives.rank() == 0 and not shows_bars():
        print(line, file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    """Return whether stderr goes to a Jupyter notebook, which is not a terminal but shows bars."""
    kernel = sys.modules.get("ipykernel.iostream")
    return kernel is not None and isinstance(sys.stderr, kernel.OutStream)
