"""What memory does not hold: refused before the work, or one line in place of another library's error.

Imports no torch.
"""

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
    """What was asked for does not fit into memory. The commands print its one line and exit with 1."""


def physical_memory() -> float:
    """Bytes of memory that this machine has; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else math.inf


def require_memory(num_bytes: float, what: str, otherwise: str, copies: int = 4, memory: float | None = None) -> None:
    """Refuse what does not fit into memory, with the copies that are made of it.

    Args:
        num_bytes: what it takes.
        what: what takes it, as in `x takes`.
        otherwise: what to do instead.
        copies: how many there are at a time.
        memory: bytes of memory; None: this machine's.

    Raises:
        BadInput: if so.
    """
    memory, gib = physical_memory() if memory is None else memory, 2.0**30
    if copies * num_bytes > memory:
        raise BadInput(f"{what} {num_bytes / gib:.1f} GiB: too much for {memory / gib:.1f} GiB of memory; {otherwise}")


def out_of_memory(error: BaseException) -> str | None:
    """One line if memory has run out, whichever library says so; else None."""
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
                f"out of memory ({_amount(cause)}): take fewer datapoints or samples at a time, or a smaller "
                "batch_size, network or latent_dim"
            )
    return None


@contextmanager
def out_of_memory_in_one_line() -> Iterator[None]:
    """Turn other libraries' errors about memory into `OutOfMemory`.

    Raises:
        OutOfMemory: instead of them.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        raise_out_of_memory(error)
        raise


def raise_out_of_memory(error: Exception) -> None:
    """Before another reason is given for an error, raise `OutOfMemory` if that is what it is about."""
    if (line := out_of_memory(error)) is not None:
        raise OutOfMemory(line) from error


def _amount(error: BaseException) -> str:
    """What could not be allocated, as far as the error tells."""
    message, gib = one_line(error), 2.0**30
    if found := re.search(r"tried to allocate (\d+) bytes", message):  # torch's, on the CPU
        return f"{int(found[1]) / gib:.1f} GiB asked for, this machine has {physical_memory() / gib:.1f} GiB"
    return message[:160]
