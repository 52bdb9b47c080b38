"""Errors about memory, raised before the work or translated from other libraries. Imports no torch."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae.errors import BadInput, causes, one_line

NO_MEMORY = r"DefaultCPUAllocator|not enough memory|out of memory|can't allocate memory"


class OutOfMemory(BadInput):
    """Memory has run out. The commands print its one line and exit with status 1."""


def physical_memory() -> float:
    """Bytes of memory of this machine; infinite if the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else math.inf


def require_memory(num_bytes: float, what: str, otherwise: str, copies: int = 4, memory: float | None = None) -> None:
    """Check that data fit into memory, with the copies made of them.

    Args:
        num_bytes: size of the data.
        what: start of the message, such as `x takes`.
        otherwise: advice for the message.
        copies: number of copies that exist at the same time.
        memory: bytes of memory; None: all of this machine's.

    Raises:
        BadInput: if they do not fit.
    """
    memory, gib = physical_memory() if memory is None else memory, 2.0**30
    if copies * num_bytes > memory:
        raise BadInput(f"{what} {num_bytes / gib:.1f} GiB: too much for {memory / gib:.1f} GiB of memory; {otherwise}")


def out_of_memory(error: BaseException) -> str | None:
    """Return one line if an error means that memory has run out, else None."""
    for cause in causes(error):
        if isinstance(cause, OutOfMemory):
            return str(cause)
        if isinstance(cause, BadInput):
            return None
        if (
            isinstance(cause, MemoryError)
            or type(cause).__name__ == "OutOfMemoryError"  # of torch
            or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
            or (isinstance(cause, RuntimeError) and re.search(NO_MEMORY, str(cause)))
        ):
            return (
                f"out of memory ({_amount(cause)}): use fewer datapoints or samples at a time, or a smaller "
                "batch_size, network or latent_dim"
            )
    return None


@contextmanager
def out_of_memory_in_one_line() -> Iterator[None]:
    """Translate errors of other libraries about memory.

    Raises:
        OutOfMemory: in place of such an error.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        raise_out_of_memory(error)
        raise


def raise_out_of_memory(error: Exception) -> None:
    """Raise `OutOfMemory` if an error is about memory."""
    if (line := out_of_memory(error)) is not None:
        raise OutOfMemory(line) from error


def _amount(error: BaseException) -> str:
    """Describe what could not be allocated."""
    message, gib = one_line(error), 2.0**30
    if found := re.search(r"tried to allocate (\d+) bytes", message):  # torch's, on the CPU
        return f"{int(found[1]) / gib:.1f} GiB asked for, this machine has {physical_memory() / gib:.1f} GiB"
    return message[:160]
