"""Lets functions that read the values of tensors be traced, or rejects them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode


class WithoutValues(TorchFunctionMode):
    """Replaces functions that read the values of tensors, while tracing, or rejects them.

    Values that leave torch, for NumPy or lists, would be constants in the graph. `tensor.item()` returns the detached
    tensor: Pyro's ELBOs only add and multiply it. `one_hot` compares indices.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise ValueError(f"`{func.__name__}` reads the values of a tensor: avoid data-dependent code")
        if func is nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        raise ValueError("one_hot without num_classes depends on the values of its argument: pass num_classes")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def require_static_shapes(graph: GraphModule) -> None:
    """Check that no shape in a graph depends on values: the shapes that follow from it are constants.

    Raises:
        ValueError: if one does.
    """
    for node in graph.graph.nodes:
        if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        if node.target is not torch.ops.aten.index.Tensor or any(_is_mask(index) for index in node.args[1]):
            name = node.target.name().removeprefix("aten::")
            raise ValueError(f"the shape of a result of {name} depends on the values of a tensor: use torch.where")


def _is_mask(index: Any) -> bool:
    """Return whether an index is a mask that is computed; a constant one always has the same number of entries."""
    is_computed = index is not None and index.op != "get_attr"
    return is_computed and index.meta["val"].dtype in (torch.bool, torch.uint8)
