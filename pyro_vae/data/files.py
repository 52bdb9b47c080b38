"""Files that may be a stranger's: checks before reading them, and their names in messages."""

from __future__ import annotations

import os
import stat

from pyro_vae.errors import BadInput


def require_regular(path: str | os.PathLike[str], name: str) -> os.stat_result:
    """The status of a regular file, or of the one that a link leads to.

    Pipes, sockets and devices are refused without being opened: reading them may wait for ever, or never end.

    Raises:
        BadInput: if the file is missing, is not regular, or links lead in a circle.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise BadInput(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # a circle of links, a name that no file can have
        raise BadInput(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{name} is not a regular file: give one, not a folder, pipe, socket or device")
    return status


def identity(status: os.stat_result) -> tuple[int, int]:
    """What all links to a file or folder have in common."""
    return status.st_dev, status.st_ino
