"""Reads rows of an array on disk."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

AT_ONCE = 32
"""Number of rows read before their memory is released: each may map a huge page of 2 MiB."""


class Mapped(Dataset[Tensor]):
    """Rows of a memory-mapped array `[N, *data_shape]`.

    Memory of rows that were read is released; the system caches the file while there is room.

    Args:
        array: floats, bytes or booleans.
        name: name of the array in messages.
    """

    def __init__(self, array: np.memmap, name: str) -> None:
        self.array, self.name = array, name
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        # in a copy-on-write map, releasing pages would drop the user's changes
        can_release = isinstance(base, mmap.mmap) and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED")
        self.map: mmap.mmap | None = base if can_release else None

    def __len__(self) -> int:
        return len(self.array)

    def __getitems__(self, index: Sequence[int]) -> Tensor | str:
        """Read rows as float32 or bytes `[B, *data_shape]`; return an error message if they hold NaN or Inf."""
        dtype = np.uint8 if self.array.dtype == np.uint8 else np.float32
        rows = np.empty((len(index), *self.array.shape[1:]), dtype)
        with np.errstate(over="ignore"):  # overflow gives Inf
            for i in range(0, len(index), AT_ONCE):
                rows[i : i + AT_ONCE] = self.array[index[i : i + AT_ONCE]]
                if self.map is not None:
                    self.map.madvise(mmap.MADV_DONTNEED)
        return not_finite(rows, self.name) or torch.from_numpy(rows)


def not_finite(x: np.ndarray, name: str) -> str | None:
    """Return an error message if x holds NaN or Inf, else None."""
    if x.dtype == np.uint8 or np.isfinite(x).all():
        return None
    num_bad = int((~np.isfinite(x)).sum())
    finite = " (or too large for float32: rescale them)" if np.isinf(x).any() else ""
    return f"{name} holds {num_bad} values that are NaN or Inf{finite}: drop or impute those datapoints"
