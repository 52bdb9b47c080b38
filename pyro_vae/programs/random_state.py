"""The state of random generators: saving, restoring and isolating it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.errors import BadInput, integer, one_line


def fork_rng(*values: Any) -> AbstractContextManager[None]:
    """Isolate the generators of the CPU and of the GPUs that hold tensors among `values` (`torch.random.fork_rng`)."""
    return torch.random.fork_rng(_gpus(values))


@contextmanager
def seeded(seed: int, *values: Any) -> Iterator[None]:
    """Isolate generators as `fork_rng(*values)` does, and seed them; `torch.manual_seed` would seed all GPUs."""
    with fork_rng(*values):
        torch.default_generator.manual_seed(seed)
        for device in _gpus(values):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def get_other_rng_state() -> dict[str, Any]:
    """Return the state of the global generators of Python and NumPy."""
    return {"random": random.getstate(), "numpy.random": np.random.get_state(legacy=False)}


def set_other_rng_state(state: dict[str, Any]) -> None:
    """Restore a state returned by `get_other_rng_state()`."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy.random"])


@contextmanager
def callers_generators() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch on exit, so that all may be seeded within."""
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
        if not has_cuda:  # an unused GPU takes the CPU's seed
            torch.cuda.manual_seed_all(torch.initial_seed())


def _gpus(values: tuple[Any, ...]) -> list[torch.device]:
    return list({value.device for value in values if isinstance(value, Tensor) and value.is_cuda})


def get_rng_state() -> dict[str, Any]:
    """Return the state of torch's generators on all devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state returned by `get_rng_state()`.

    Raises:
        BadInput: if it is not such a state, e.g. because it comes from a damaged file.
    """
    try:
        torch.set_rng_state(state["cpu"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BadInput(f"the saved state of the random generators is invalid: {one_line(error)}") from error


def set_seed(seed: object, rank: int = 0) -> None:
    """Seed all generators. Each process gets a different seed, which depends on its rank.

    Raises:
        BadInput: if `seed` is not an integer from 0 on.
    """
    pyro.set_rng_seed(integer("seed", seed) + rank)
