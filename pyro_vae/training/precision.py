"""Computes matrix products in bfloat16 and everything else in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
    # inference mode does not decompose these
    aten.linear.default,
    aten.matmul.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
}


class BFloat16Products(TorchDispatchMode):
    """Computes matrix products and convolutions of float32 tensors from bfloat16 inputs, forward and backward.

    Products accumulate in float32. Their results, with the biases that are added to them, are rounded to bfloat16 and
    returned as float32, so densities, parameters and gradients remain float32.
    `torch.autocast` would pass bfloat16 results on to the following operations, including the distributions.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """If `func` is a product, cast its float32 inputs to bfloat16 and its result back."""
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        narrow = func(*tree_map(_narrow, args), **(kwargs or {}))
        return tree_map(_widen, narrow)


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def is_fast(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions; without them, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True
