"""Delays Ctrl-C until it is safe to stop."""

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
    """Delay the KeyboardInterrupt of Ctrl-C until the yielded function is called or the context ends.

    Raised anywhere else, it could be swallowed, for example in a callback from C++, or leave the lock of a writing
    thread held forever. A second Ctrl-C raises it immediately, unless `insist` is set. In threads other than the main
    one the context has no effect, because Python delivers signals only to the main thread.
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
        signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)  # None: not set from Python
    check()


def import_whole(name: str) -> ModuleType:
    """Import a module and delay Ctrl-C until the import has finished.

    An interrupted import leaves partly initialized modules in the process, and later imports fail.

    Raises:
        FailedRun: if an earlier import was interrupted or the module is broken.
    """
    try:
        with deferred_interrupt(insist=True):
            return import_module(name)
    except Exception as error:
        raise half_imported(error) from error


def half_imported(error: BaseException) -> FailedRun:
    """Return the error to raise when importing a module failed with `error`."""
    return FailedRun(f"{one_line(error)}: its import was interrupted, or its installation is broken: restart Python")
