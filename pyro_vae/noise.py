"""Random numbers that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


def fork_rng(*values: Any) -> AbstractContextManager[None]:
    """`torch.random.fork_rng` of the CPU's generator and of those of the GPUs on which tensors among `values` lie."""
    return torch.random.fork_rng(_gpus(values))


@contextmanager
def seeded(seed: int, *values: Any) -> Iterator[None]:
    """`fork_rng(*values)`, within which those generators start from `seed`; `torch.manual_seed` would seed all GPUs."""
    with fork_rng(*values):
        torch.default_generator.manual_seed(seed)
        for device in _gpus(values):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _gpus(values: tuple[Any, ...]) -> list[torch.device]:
    return list({value.device for value in values if isinstance(value, Tensor) and value.is_cuda})
