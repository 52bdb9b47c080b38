"""Binarization of grey values: at a threshold, or by Bernoulli draws."""

from __future__ import annotations

import torch
from torch import Tensor

BINARIZATIONS = ("dynamic", "static", "threshold", "none")


def at_half(x: Tensor) -> Tensor:
    """Return 1 where x > 0.5, else 0; NaN stays NaN."""
    return torch.where(x.isnan(), x, (x > 0.5).float())


def thresholds(p: Tensor) -> Tensor:
    """Round probabilities to multiples of 1/65536, stored in 16 bits: `bernoulli` then reads half the memory."""
    return (p * 65536).round().sub_(32768).clamp_(max=32767).to(torch.int16)


def bernoulli(thresholds: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw `torch.bernoulli(p)` from the `thresholds` of p, 8 times as fast: with 16 random bits per draw, not 53."""
    size, shape = thresholds.numel(), thresholds.shape
    bits = torch.empty(-(-size // 4), dtype=torch.int64, device=thresholds.device).random_(-(2**63), None)
    uniform = bits.view(torch.int16)[:size].view(shape)  # on -32768, …, 32767
    uniform.clamp_(max=32766)  # stay below the threshold of p = 1, which is clamped
    return torch.lt(uniform, thresholds, out=torch.empty(shape, dtype=dtype, device=thresholds.device))
