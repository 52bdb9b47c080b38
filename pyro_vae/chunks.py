"""A function of many rows, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.eval_mode import eval_mode
from pyro_vae.noise import fork_rng

LARGEST = 2**28
"""Bytes of the largest tensor at a time, where that is all there is to say."""


def by_rows(module: nn.Module, run: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """`run(*tensors)`, of so many of their rows at a time that no tensor in it is larger than `LARGEST`.

    Args:
        module: what `run` runs.
        run: function of tensors `[n, ...]`, or None where there is none, that returns a tensor `[n, ...]`.
        *tensors: each `[N, ...]`, or None.
    """
    N = max(len(tensor) for tensor in tensors if tensor is not None)
    rows = N if N <= 2 else max(1, LARGEST // max(1, _bytes_per_row(module, run, *tensors)))
    parts = [
        run(*(None if tensor is None else tensor[i : i + rows] for tensor in tensors))
        for i in range(0, max(1, N), max(1, rows))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bytes_per_row(module: nn.Module, run: Callable[..., Tensor], *tensors: Tensor | None) -> int:
    """What a second row adds to the largest tensor; no noise is used up."""
    sizes = []
    for n in (1, 2):
        with fork_rng(*tensors), eval_mode(module), _Sizes() as noted:
            run(*(None if tensor is None else tensor[:n] for tensor in tensors))
        sizes.append(noted.bytes)
    return max(two - one for one, two in zip(*sizes, strict=False))


class _Sizes(TorchDispatchMode):
    """Notes the size of each result of an operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, as it is."""
        result = func(*args, **(kwargs or {}))
        self.bytes += [value.nbytes for value in tree_leaves(result) if isinstance(value, Tensor)]
        return result
