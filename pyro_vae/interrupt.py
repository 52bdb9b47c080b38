"""Ctrl-C at a safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C raises KeyboardInterrupt only where the yielded function is called; a second one, at once.

    Elsewhere it could be swallowed, as in a callback from C++, or leave a lock of a writing thread taken for ever.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    requested = False

    def request(signum: int, frame: Any) -> None:
        nonlocal requested
        if requested:
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
