"""A limit on what building a model may take, where a stranger may have written its configuration."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map


class Fence(TorchDispatchMode):
    """Within, operations run until they would have made more numbers, or more tensors, than allowed.

    Each operation that may make new memory is first tried on the `meta` device, where tensors have shapes and no
    memory. A module built within cannot take much more than the numbers that it is going to be loaded with, whatever
    sizes its configuration asks for.

    Args:
        numbers: how many numbers all tensors together may have.
        tensors: how many tensors there may be.

    Raises:
        MemoryError: within, in place of the operation that would exceed them.
    """

    def __init__(self, numbers: int, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.tensors = numbers, tensors
        self._sizes: dict[Hashable, int] = {}  # of operations that have been tried

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what `func` will make, then run it."""
        kwargs = kwargs or {}
        self.tensors -= 1
        self.numbers -= self._size(func, args, kwargs)
        if self.numbers < 0 or self.tensors < 0:
            raise MemoryError("it asks for a larger model than it has weights for")
        return func(*args, **kwargs)

    def _size(self, func: Any, args: Any, kwargs: Any) -> int:
        leaves, structure = tree_flatten((args, kwargs))
        key = (func, structure, *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        if key not in self._sizes:
            self._sizes[key] = _size_on_meta(func, args, kwargs)
        return self._sizes[key]


def _size_on_meta(func: Any, args: Any, kwargs: Any) -> int:
    """Numbers in the results of an operation; those of its arguments where the results depend on their values."""
    returned = [r.alias_info for r in func._schema.returns]
    if returned and all(alias is not None for alias in returned):  # views, and what is done in place
        return 0
    try:
        on_meta = {key: value for key, value in kwargs.items() if key not in ("device", "generator", "pin_memory")}
        if any(argument.name == "device" for argument in func._schema.arguments):
            on_meta["device"] = torch.device("meta")
        made = func(*tree_map(_on_meta, args), **tree_map(_on_meta, on_meta))
    except Exception:  # unique, nonzero, item, draws with a generator
        made = (args, kwargs)
    return sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))


def _on_meta(value: Any) -> Any:
    return (
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if isinstance(value, Tensor)
        else value
    )
