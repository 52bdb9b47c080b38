"""Random numbers that leave no trace."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def fork_rng(*values: Any) -> AbstractContextManager[None]:
    """`torch.random.fork_rng` of the CPU's generator and of those of the GPUs on which tensors among `values` lie."""
    return torch.random.fork_rng(list({v.device for v in values if isinstance(v, Tensor) and v.is_cuda}))
