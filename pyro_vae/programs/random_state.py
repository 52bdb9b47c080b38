"""Random numbers that leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.errors import (
    BadInput,
    integer,
    one_line,
)


def fork_rng(*values: Any) -> AbstractContextManager[None]:
    """`torch.random.fork_rng` of the CPU's generator and of those of the GPUs on which tensors among `values` lie."""
    return torch.random.fork_rng(_gpus(values))


@contextmanager
def seeded(seed: int, *values: Any) -> Iterator[None]:
    """`fork_rng(*values)`, within which those generators start from `seed`; `torch.manual_seed` would seed all GPUs."""
    with fork_rng(*values):
        torch.default_generator.manual_seed(seed)
        for device in _gpus(values):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def get_other_rng_state() -> dict[str, Any]:
    """The state of the global generators that are not torch's: Python's and NumPy's."""
    return {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}


def set_other_rng_state(state: dict[str, Any]) -> None:
    """Restore the value of `get_other_rng_state()`."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy.random"])


@contextmanager
def callers_generators() -> Iterator[None]:
    """Within, all generators may be seeded; afterwards Python's, NumPy's and torch's are back in their old state."""
    others = get_other_rng_state()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    has_cuda = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if has_cuda else []):
            yield
    finally:
        set_other_rng_state(others)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        if not has_cuda:  # an unused GPU starts from the CPU's seed
            torch.cuda.manual_seed_all(torch.initial_seed())


def _gpus(values: tuple[Any, ...]) -> list[torch.device]:
    return list({value.device for value in values if isinstance(value, Tensor) and value.is_cuda})


def get_rng_state() -> dict[str, Any]:
    """State of torch's generators on all devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `get_rng_state()`'s value.

    Raises:
        BadInput: if a file has another.
    """
    try:
        torch.set_rng_state(state["cpu"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BadInput(f"the saved state of the random generators cannot be used: {one_line(error)}") from error


def set_seed(seed: object, rank: int = 0) -> None:
    """Seed all generators, those of several processes with as many seeds.

    Raises:
        BadInput: if it is none.
    """
    pyro.set_rng_seed(integer("seed", seed) + rank)
