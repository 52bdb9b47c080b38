"""Numbers too small to change a sum, which processors may be slow to compute with.

Below 1e-38, numbers in float32 are subnormal. Some processors, Intel's for example, multiply them up to a hundred times
more slowly, and a gradient of IWAE that contains them takes several times as long.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def without_negligible(log_w: Tensor) -> Tensor:
    """Return log-weights `[K, N]`, with those raised that are too small to change their sum over K.

    They are raised to ε² times the largest weight, where ε is the machine epsilon, and have no gradient.
    """
    least = log_w.detach().amax(0) + 2 * math.log(torch.finfo(log_w.dtype).eps)
    return torch.where(log_w < least, least, log_w)
