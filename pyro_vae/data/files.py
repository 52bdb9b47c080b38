"""Files that may be a stranger's: checks before reading them, and their names in messages."""

from __future__ import annotations

import math
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


def shown(path: str | os.PathLike[str]) -> str:
    """A file's name for messages; line breaks and control characters escaped."""
    name = str(path)
    return name if name.isprintable() else ascii(name)[1:-1]


def physical_memory() -> float:
    """Bytes of memory that this machine has; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else math.inf


def require_memory(num_bytes: float, what: str, otherwise: str, copies: int = 4) -> None:
    """Refuse to read what does not fit into memory, with the copies that are made of it.

    Raises:
        BadInput: if so, with what to do `otherwise`.
    """
    memory, gib = physical_memory(), 2.0**30
    if copies * num_bytes > memory:
        raise BadInput(f"{what} {num_bytes / gib:.1f} GiB: too much for {memory / gib:.1f} GiB of memory; {otherwise}")
