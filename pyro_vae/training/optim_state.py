"""Restores the state of an optimizer and its schedule from an untrusted file.

torch accepts any numbers and tensors, and its kernels then read and write beyond the end of tensors that are too small.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyro_vae.errors import BadInput, one_line

SCHEDULED = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "base_momentum", "max_momentum", "betas")
"""Settings of a parameter group that schedules change; all others come from the configuration."""

LARGEST = 1e30
"""Largest number accepted in a state; torch cannot convert numbers above 3e38."""


def restore(
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    make_optimizer: Callable[..., Optimizer],
    saved: dict[str, Any],
    names: list[str],
) -> None:
    """Load the saved state of an optimizer and its schedule.

    Args:
        optimizer: an optimizer that has not made a step.
        scheduler: its schedule.
        make_optimizer: makes such an optimizer from parameters.
        saved: result of `JointOptim.get_state()` in another process.
        names: names of the optimizer's parameters.

    Raises:
        BadInput: if the state belongs to other parameters, or to another kind of optimizer or schedule.
    """
    try:
        if saved["names"] != names:
            raise ValueError("it belongs to other parameters")
        fresh, state = optimizer.state_dict(), saved["optimizer"]
        groups = [_group(*pair) for pair in zip(fresh["param_groups"], state["param_groups"], strict=True)]
        if scheduler is not None:
            schedule = _schedule(scheduler, saved["scheduler"])
        like = _after_one_step(optimizer, make_optimizer)
        states = {index: _state_of_parameter(like[index], values) for index, values in state["state"].items()}
        optimizer.load_state_dict({"param_groups": groups, "state": states})
        if scheduler is not None:
            scheduler.load_state_dict(schedule)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise BadInput(f"the optimizer's saved state cannot be used: {one_line(error)}") from error


def _group(fresh: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group, with saved values for those that schedules change."""
    return {
        name: _like(name, float(value) if type(value) is int else value, saved[name]) if name in SCHEDULED else value
        for name, value in fresh.items()
    }


def _schedule(scheduler: LRScheduler, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a schedule with its saved progress; its settings come from the configuration."""
    settings = inspect.signature(type(scheduler)).parameters.keys() - {"last_epoch"}
    fresh, known = scheduler.state_dict(), {**saved, "last_epoch": saved["last_epoch"]}
    if known["last_epoch"] < 0:
        raise ValueError("last_epoch is negative")
    # the other entries differ between versions of torch
    return {
        name: _like(name, value, known[name]) if name in known and name not in settings else value
        for name, value in fresh.items()
    }


def _like(name: str, fresh: Any, saved: Any) -> Any:
    """Return `saved` if it is compatible with `fresh`.

    A number may replace a number, and a list of numbers another of the same length. Other values must be equal.

    Raises:
        ValueError: if they are not compatible.
    """
    if isinstance(fresh, (list, tuple)) and all(_is_number(value) for value in fresh):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(fresh):
            raise ValueError(f"{name} is not a list of {len(fresh)} numbers")
        return type(fresh)(_like(name, *pair) for pair in zip(map(float, fresh), saved, strict=True))
    if type(fresh) is int and type(saved) is float:
        raise ValueError(f"{name} is not an integer")
    if _is_number(fresh):
        # a schedule's best loss is infinite at first
        if not _is_number(saved) or math.isnan(saved) or LARGEST < abs(saved) < math.inf:
            raise ValueError(f"{name} is not a number of at most {LARGEST:g}")
        if math.isinf(saved) and not (type(fresh) is float and math.isinf(fresh)):
            raise ValueError(f"{name} is infinite")
        return saved
    if type(fresh) is bool and type(saved) is bool:
        return saved
    if type(saved) is not type(fresh) or saved != fresh:
        raise ValueError(f"{name} has another type or value")
    return fresh


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _after_one_step(optimizer: Optimizer, make_optimizer: Callable[..., Optimizer]) -> dict[int, dict[str, Any]]:
    """Return the state of each parameter after one step of a new optimizer of the same kind."""
    zeros = [torch.zeros_like(p, requires_grad=False) for group in optimizer.param_groups for p in group["params"]]
    for zero in zeros:
        zero.grad = torch.zeros_like(zero)
    trial = make_optimizer(zeros)
    trial.step()
    state: dict[int, dict[str, Any]] = trial.state_dict()["state"]
    return {index: state.get(index, {}) for index in range(len(zeros))}


def _state_of_parameter(like: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Return the saved state of one parameter: empty, or with the names and shapes in `like`.

    Raises:
        ValueError: if names or shapes differ.
    """
    there = {name: value for name, value in saved.items() if value is not None}
    expected = {name: value for name, value in like.items() if value is not None}
    if there and there.keys() != expected.keys():
        raise ValueError(f"the state of a parameter does not consist of {', '.join(expected) or 'nothing'}")
    return {name: _value(name, expected[name], value) for name, value in there.items()}


def _value(name: str, like: Any, saved: Any) -> Any:
    if not isinstance(like, Tensor):
        return _like(name, like, saved)
    if not isinstance(saved, Tensor) or saved.shape != like.shape:
        raise ValueError(f"{name} is not a tensor of shape {list(like.shape)}, as after a step")
    if saved.is_floating_point() != like.is_floating_point():
        raise ValueError(f"{name} has dtype {saved.dtype}, not {like.dtype}")
    return saved.detach().to(like.dtype)
