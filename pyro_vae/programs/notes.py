"""Notes and warnings: their levels in the log, and Python warnings for callers who have not configured `logging`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

NOTE = 25
"""The logging level of notes, between INFO and WARNING: worth knowing, but nothing to repair."""
logging.addLevelName(NOTE, "NOTE")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a Python warning of the line that called this package."""
    frame = caller = sys._getframe()
    while frame.f_back is not None:  # as far as that line, perhaps through a decorator
        frame = frame.f_back
        if any(each.f_code.co_filename.startswith((_PACKAGE, contextlib.__file__)) for each in (caller, frame)):
            caller = frame
    registry = caller.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, caller.f_code.co_filename, caller.f_lineno, registry=registry)


class _PythonWarnings(logging.Handler):
    """Gives this package's log records as Python warnings of the line that called the package."""

    def emit(self, record: logging.LogRecord) -> None:
        """Warn, or leave another library's record to the handler that was there before."""
        if not record.name.startswith("pyro_vae"):
            if _last_resort is not None and record.levelno >= _last_resort.level:
                _last_resort.handle(record)
            return
        warn(record.getMessage())


_last_resort = logging.lastResort


@contextlib.contextmanager
def as_python_warnings() -> Iterator[None]:
    """Turn warnings that no handler of `logging` receives into Python warnings, until exit."""
    before = logging.lastResort
    logging.lastResort = _PythonWarnings(logging.WARNING)
    try:
        yield
    finally:
        logging.lastResort = before
