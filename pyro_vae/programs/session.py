"""Running programs with torch's and Pyro's defaults, whatever the caller's session has set."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import pyro
import torch
from pyro.poutine import runtime

from pyro_vae.errors.memory import out_of_memory_in_one_line
from pyro_vae.programs.failures import in_one_line

Function = TypeVar("Function", bound=Callable[..., Any])

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")

_lock = threading.RLock()
"""Serializes calls: handlers, parameters, seeds and the default dtype belong to the whole process."""


def _renew_lock() -> None:
    """Replace the lock in a forked process, where a thread of the parent may still hold it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep other threads from running Pyro programs through this library. The same thread may enter again."""
    with _lock:
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Isolate Pyro programs from the caller's session, and from other threads that use this library.

    The caller's effect handlers (`poutine.scale`, `pyro.plate`, …) do not reach the programs: wrap the program in them,
    not the call. Autocast and anomaly detection are off, and gradients are recorded.

    Raises:
        OutOfMemory: if memory runs out.
    """
    with out_of_memory_in_one_line(), one_thread(), _no_handlers(), ExitStack() as stack:
        for device in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def for_programs(x: torch.Tensor) -> Iterator[None]:
    """Isolate the caller's programs, run on data x, as `undisturbed` does.

    New tensors have the caller's default dtype, and lie on the caller's default device if x does, else on the CPU.
    Programs see Pyro's parameters. Parameters that they register are removed afterwards, since they would clash with
    those of another VAE whose networks have the same names. Pyro's validation is off.

    Raises:
        OutOfMemory: if memory runs out.
        BadInput: if a program raises an error.
    """
    store = pyro.get_param_store()
    with (
        undisturbed(),
        _no_default_device(x.device),
        pyro.validation_enabled(False),
        store.scope(store.get_state()),
        in_one_line(),
    ):
        yield


@contextmanager
def by_default(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Isolate this library's own programs, as `undisturbed` does. New tensors lie on the CPU.

    Pyro's parameter store is empty within, since the caller's may hold another VAE's parameters of the same names.

    Args:
        dtype: dtype of new tensors.
    """
    store = pyro.get_param_store()
    with undisturbed(), _default_dtype(dtype), _no_default_device(), store.scope():
        yield


def for_users(method: Function) -> Function:
    """Make a method of a module run `by_default`, with the dtype of its parameters and without gradients."""

    @wraps(method)
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with by_default(next(self.parameters()).dtype), torch.no_grad():
            return method(self, *args, **kwargs)

    return cast(Function, call)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _no_default_device(unless: torch.device | None = None) -> AbstractContextManager[Any]:
    """Make the CPU the default device, unless the default device has the same type as `unless`."""
    device = torch.empty(0).device
    if device.type == "cpu" or (unless is not None and device.type == unless.type):
        return nullcontext()
    return torch.device("cpu")


@contextmanager
def _no_handlers() -> Iterator[None]:
    """Remove Pyro's effect handlers, and the dimensions that plates and enumeration use, until exit."""
    handlers, plates, enumerated = runtime._PYRO_STACK, runtime._DIM_ALLOCATOR._stack, vars(runtime._ENUM_ALLOCATOR)
    before = list(handlers), list(plates), dict(enumerated)
    handlers.clear()
    plates.clear()
    try:
        yield
    finally:
        handlers[:], plates[:] = before[:2]
        enumerated.clear()
        enumerated.update(before[2])
