"""Processing many rows in chunks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.errors.memory import require_memory
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import fork_rng

LARGEST = 2**28
"""Largest size of a tensor, in bytes."""

_measured: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()


def slices(n: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield the tensors' first n rows, then the next n, and so on; None stays None."""
    N = max(len(tensor) for tensor in tensors if tensor is not None)
    for i in range(0, N, n):
        yield tuple(None if tensor is None else tensor[i : i + n] for tensor in tensors)


def require_room(num_values: int, like: Tensor, what: str) -> None:
    """Check that a result and a copy of it fit into the memory of its device.

    Args:
        num_values: number of values in the result.
        like: a tensor with its dtype, on its device.
        what: beginning of the error message, e.g. `n=10000000000 takes`.

    Raises:
        BadInput: if they do not fit.
    """
    memory = torch.cuda.mem_get_info(like.device)[1] if like.is_cuda else None
    require_memory(num_values * like.element_size(), what, "use fewer at a time", copies=2, memory=memory)


def by_rows(run: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """Compute `run(*tensors)` in chunks of rows, so small that no tensor within is larger than `LARGEST`.

    Args:
        run: method of a module that maps tensors `[n, ...]`, some of them None, to `[n, ...]`.
        *tensors: each `[N, ...]`, or None.
    """
    N = max(len(tensor) for tensor in tensors if tensor is not None)
    rows = max(1, N if N <= 2 else LARGEST // _bytes_per_row(run, *tensors))
    parts = [run(*part) for part in slices(rows, *tensors)] or [run(*tensors)]  # also without any rows
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bytes_per_row(run: Any, *tensors: Tensor | None) -> int:
    """Return the bytes that a second row adds to the largest tensor, measured once without consuming random numbers."""
    module: nn.Module = run.__self__
    known, key = _measured.setdefault(module, {}), (run.__func__, next(module.parameters()).dtype)
    if key not in known:
        sizes = []
        for n in (1, 2):
            with fork_rng(*tensors), eval_mode(module), _Sizes() as noted:
                run(*next(slices(n, *tensors)))
            sizes.append(noted.bytes)
        known[key] = max([1, *(two - one for one, two in zip(*sizes, strict=False))])
    return known[key]


class _Sizes(TorchDispatchMode):
    """Records the size of each result of an operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` and record the size of its results."""
        result = func(*args, **(kwargs or {}))
        self.bytes += [value.nbytes for value in tree_leaves(result) if isinstance(value, Tensor)]
        return result


def chunks(N: int, num_samples: int, chunk_size: int) -> tuple[int, int]:
    """Return how many datapoints and samples to process at once: (n, k) with n·k ≤ max(chunk_size, 1).

    Both are near the square root, as far as N and K allow: k samples share the encoding of x, and both dimensions are
    long enough for fast matrix products.
    """
    k = min(num_samples, max(1, math.isqrt(chunk_size)))
    n = min(N, max(1, chunk_size // k))
    return n, min(num_samples, max(1, chunk_size // n))
