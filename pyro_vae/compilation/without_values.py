"""Lets functions that read the values of tensors be traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class WithoutValues(TorchFunctionMode):
    """Replaces functions that read the values of tensors, while tracing.

    `tensor.item()` returns the detached tensor: Pyro's ELBOs only add and multiply it. `one_hot` compares indices.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func is nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        raise ValueError("one_hot without num_classes depends on the values of its argument: pass num_classes")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()
