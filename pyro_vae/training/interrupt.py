"""Ctrl-C at a safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from pyro_vae.errors import FailedRun, one_line


@contextmanager
def deferred_interrupt(insist: bool = False) -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C raises KeyboardInterrupt only where the yielded function is called, and at the end.

    A second one raises it at once, unless `insist` is set.

    Elsewhere it could be swallowed, as in a callback from C++, or leave a lock of a writing thread taken for ever.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    requested = False

    def request(signum: int, frame: Any) -> None:
        nonlocal requested
        if requested and not insist:
            raise KeyboardInterrupt
        requested = True

    def check() -> None:
        if requested:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    previous = signal.signal(signal.SIGINT, request)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
    check()


def import_whole(name: str) -> ModuleType:
    """Import a module; Ctrl-C waits until that is done.

    An import that is cut off leaves half of what it has imported in the process, for good.

    Raises:
        FailedRun: if that has happened before, or the module is broken.
    """
    try:
        with deferred_interrupt(insist=True):
            return import_module(name)
    except Exception as error:
        raise half_imported(error) from error


def half_imported(error: BaseException) -> FailedRun:
    """What to tell of an error from a module that is not all there."""
    return FailedRun(f"{one_line(error)}: its import was interrupted, or its installation is broken: restart Python")
