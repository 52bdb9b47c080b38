"""A limit on the time of a computation, which the functions that take long check themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end: ContextVar[float] = ContextVar("_end", default=math.inf)


class OutOfTime(Exception):
    """The time limit has passed. Whoever sets a limit catches this."""


@contextmanager
def time_limit(end: float) -> Iterator[None]:
    """Make `check_time` raise `OutOfTime` after `end`, on the clock of `time.monotonic`.

    Example:
        >>> with time_limit(time.monotonic() + 10):
        ...     check_time()
    """
    token = _end.set(end)
    try:
        yield
    finally:
        _end.reset(token)


def check_time() -> None:
    """Raise `OutOfTime` if the time limit has passed. Call this between pieces of work of less than a second."""
    if seconds_left() <= 0:
        raise OutOfTime


def seconds_left() -> float:
    """Return the seconds until the time limit; infinity if there is none."""
    return _end.get() - time.monotonic()
