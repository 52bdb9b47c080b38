"""Finds the line of a user's program that is running or has failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import takewhile
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import nn

_PYRO = os.path.join(os.path.dirname(pyro.__file__), "")
_OURS = os.path.dirname(__file__)  # compilation/ within pyro_vae/
_LIBRARIES = tuple(os.path.join(os.path.dirname(file), "") for file in (torch.__file__, pyro.__file__, _OURS))


class Places(Messenger):
    """Records the line of each sample site within, and tells the place of an error or of a call.

    Densities are computed after the program has ended. Their place is the line of their site.

    Args:
        until: the code that runs the program: its frame and the frames outside it are not part of the program.
    """

    def __init__(self, until: CodeType | None = None) -> None:
        super().__init__()
        self.until = until
        self._sites: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        before = self._sites.pop(name, f"site {name!r}")  # in the guide, which runs before the model
        self._sites[name] = self._line(_stack()) or before

    def of_error(self, error: BaseException) -> str:
        """Return the place where an error was raised.

        Returns:
            `file:line` in the user's code; else that of the sample site at work, or its name; else the class of Pyro's
            module at work; else nothing.
        """
        return self._place([*walk_tb(error.__traceback__)][::-1])

    def now(self) -> str:
        """Return the place where this method is called."""
        return self._place([*_stack()])

    def _place(self, frames: Sequence[tuple[FrameType, int]]) -> str:
        return self._line(frames) or self._module(frames)

    def _line(self, frames: Iterable[tuple[FrameType, int]]) -> str:
        for frame, line in self._of_program(frames):
            code = frame.f_code
            if not _is_library(code.co_filename):
                return f"{code.co_filename}:{line}"
            if code.co_filename.startswith(_PYRO) and "name" in code.co_varnames:
                site = self._sites.get(str(frame.f_locals.get("name")))
                if site:
                    return site
        return ""

    def _module(self, frames: Iterable[tuple[FrameType, int]]) -> str:
        for frame, _ in self._of_program(frames):
            if frame.f_code.co_filename.startswith(_PYRO) and isinstance(frame.f_locals.get("self"), nn.Module):
                return type(frame.f_locals["self"]).__name__
        return ""

    def _of_program(self, frames: Iterable[tuple[FrameType, int]]) -> Iterator[tuple[FrameType, int]]:
        return takewhile(lambda place: place[0].f_code is not self.until, frames)


def _stack() -> Iterator[tuple[FrameType, int]]:
    """Return the current frames, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


@cache
def _is_library(filename: str) -> bool:
    """Return whether a file belongs to torch, Pyro, this package or Python's standard library."""
    return filename.startswith(_LIBRARIES) or os.path.dirname(filename) == os.path.dirname(os.__file__)
