"""Tensors made in `torch.inference_mode`, where gradients are needed."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)


def ordinary(tensor: MaybeTensor) -> MaybeTensor:
    """A copy of a tensor made in `torch.inference_mode`, since autograd rejects those; other tensors as they are.

    Call it outside that mode, where copies are ordinary tensors.
    """
    return tensor if tensor is None or not tensor.is_inference() else tensor.clone()
