"""Using tensors made in `torch.inference_mode` where gradients are needed."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)


def ordinary(tensor: MaybeTensor) -> MaybeTensor:
    """Copy a tensor made in `torch.inference_mode`, which autograd would reject; return other tensors unchanged.

    Call this outside inference mode, where copies are ordinary tensors.
    """
    return tensor if tensor is None or not tensor.is_inference() else tensor.clone()
