"""Limits the memory for building a model from an untrusted configuration."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map


class Fence(TorchDispatchMode):
    """A context in which operations may create a limited number of tensors and of elements.

    Each operation that may allocate memory is first run on the `meta` device, where tensors have shapes but no memory.
    A module built in this context is therefore not much larger than the weights that will be loaded, whatever sizes
    its configuration requests.

    Args:
        numbers: maximum number of elements of all tensors together.
        tensors: maximum number of tensors.

    Raises:
        MemoryError: in place of an operation that would exceed a limit.
    """

    def __init__(self, numbers: int, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.tensors = numbers, tensors
        self._sizes: dict[Hashable, int] = {}  # by operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the elements that `func` will create, then run it."""
        kwargs = kwargs or {}
        self.tensors -= 1
        self.numbers -= self._size(func, args, kwargs)
        if self.numbers < 0 or self.tensors < 0:
            raise MemoryError("its configuration asks for a larger model than its weights")
        return func(*args, **kwargs)

    def _size(self, func: Any, args: Any, kwargs: Any) -> int:
        leaves, structure = tree_flatten((args, kwargs))
        key = (func, structure, *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        if key not in self._sizes:
            self._sizes[key] = _size_on_meta(func, args, kwargs)
        return self._sizes[key]


def _size_on_meta(func: Any, args: Any, kwargs: Any) -> int:
    """Number of elements of the results, or of the arguments if the results' shapes depend on values."""
    returned = [r.alias_info for r in func._schema.returns]
    if returned and all(alias is not None for alias in returned):  # views and in-place operations
        return 0
    try:
        on_meta = {key: value for key, value in kwargs.items() if key not in ("device", "generator", "pin_memory")}
        if any(argument.name == "device" for argument in func._schema.arguments):
            on_meta["device"] = torch.device("meta")
        made = func(*tree_map(_on_meta, args), **tree_map(_on_meta, on_meta))
    except Exception:  # unique, nonzero, item, or a generator is given
        made = (args, kwargs)
    return sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))


def _on_meta(value: Any) -> Any:
    return (
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if isinstance(value, Tensor)
        else value
    )
