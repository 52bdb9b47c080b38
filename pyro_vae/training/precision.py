"""Matrix products in bfloat16, all else as it is."""

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
    # these arrive whole in inference mode
    aten.linear.default,
    aten.matmul.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
}


class BFloat16Products(TorchDispatchMode):
    """Matrix products and convolutions of float32 tensors take bfloat16 inputs, forward and backward.

    Their sums are float32 within a product, and so is what comes out: densities, parameters and gradients know nothing
    of it. `torch.autocast` would hand bfloat16 on to whatever comes next, the distributions among it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Cast there and back, if `func` is a product of float32 tensors."""
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        narrow = func(*tree_map(_narrow, args), **(kwargs or {}))
        return tree_map(_widen, narrow)


def _narrow(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def is_fast(device: torch.device) -> bool:
    """Whether the device has instructions for them: without, they are slower than float32, not faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True
