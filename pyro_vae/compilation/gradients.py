"""Losses together with their gradients, as one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def with_gradients(
    loss: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Callable[..., tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Return a function of the same arguments that also returns the parameters of a loss and their gradients.

    Args:
        loss: returns a scalar, or a tuple of a scalar and other values.
        context: in which both passes run.

    Returns:
        A function that returns the scalar and the other values, the parameters, and the gradients.
    """

    def run(*args: Any, **kwargs: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        with torch.enable_grad(), context():
            value = loss(*args, **kwargs)
            value, *others = value if isinstance(value, tuple) else (value,)
            parameters = _leaves(value)
            every = torch.autograd.grad(value, parameters, allow_unused=True) if parameters else ()
            found = [(p, g) for p, g in zip(parameters, every, strict=True) if g is not None]
        return [value.detach(), *others], [p for p, _ in found], [g for _, g in found]

    return run


def _leaves(value: Tensor) -> list[Tensor]:
    """Return the leaf tensors of an autograd graph in a fixed order."""
    found, seen, stack = [], set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and node.variable.requires_grad:
            found.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def owned(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients that may be changed in place: autograd may share memory between several or expand one number."""
    seen: set[int] = set()
    result = []
    for gradient in gradients:
        memory = gradient.untyped_storage().data_ptr()
        result.append((gradient.clone() if memory in seen else gradient).contiguous())
        seen.add(memory)
    return result
