"""Checks of untrusted files before they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae.errors import BadInput


def require_regular(path: str | os.PathLike[str], name: str) -> os.stat_result:
    """Return the status of a regular file, following links.

    Pipes, sockets and devices are refused without being opened: reading them may block or never end.

    Raises:
        BadInput: if the file is missing, is not regular, or its links are circular.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise BadInput(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # circular links, or an invalid name
        raise BadInput(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{name} is not a regular file: give one that is, not a folder, pipe, socket or device")
    return status


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return a value that all links to a file or folder share."""
    return status.st_dev, status.st_ino


@contextmanager
def given_by(option: str) -> Iterator[None]:
    """Name the option that gave a file in errors about it, which call it `path`."""
    try:
        yield
    except BadInput as error:
        error.args = (str(error).replace("path=", f"{option}=", 1),)
        raise
