"""Reads rows of an array on disk."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.errors import BadInput

AT_ONCE = 32
"""Number of rows read before their memory is released: each may map a huge page of 2 MiB."""


TOO_LARGE = " (or too large for float32: rescale them)"


class Mapped(Dataset[Tensor]):
    """Rows of a memory-mapped array `[N, *data_shape]`.

    Memory of rows that were read is released; the system caches the file while there is room.

    Args:
        array: real numbers.
        name: name of the array in messages.
        missing: whether NaN is allowed, for missing entries.
        unit: what integers are divided by; bytes are left to `split.unit_interval` if it is 255.
    """

    def __init__(self, array: np.memmap, name: str, missing: bool = False, unit: int = 1) -> None:
        self.array, self.name, self.missing, self.unit = array, name, missing, unit
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        # in a copy-on-write map, releasing pages would drop the user's changes
        can_release = isinstance(base, mmap.mmap) and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED")
        self.map: mmap.mmap | None = base if can_release else None

    def __len__(self) -> int:
        return len(self.array)

    def __getitems__(self, index: Sequence[int]) -> Tensor | BadInput:
        """Read float32 or bytes `[B, *data_shape]`. An error is returned, since torch would wrap one that is raised."""
        grey = self.array.dtype == np.uint8 and self.unit == 255
        dtype = np.uint8 if grey else np.float32
        rows = np.empty((len(index), *self.array.shape[1:]), dtype)
        with np.errstate(over="ignore"):  # overflow gives Inf
            for i in range(0, len(index), AT_ONCE):
                rows[i : i + AT_ONCE] = self.array[index[i : i + AT_ONCE]]
                if self.map is not None:
                    self.map.madvise(mmap.MADV_DONTNEED)
        try:
            require_finite(rows, f"{self.name} (in {len(rows)} of its rows)", self.missing, "data.missing=true")
        except BadInput as error:
            return error
        return torch.from_numpy(rows if grey or self.unit == 1 else rows / np.float32(self.unit))


def require_finite(x: np.ndarray, name: str, missing: bool, option: str) -> None:
    """Check that no value is NaN or Inf; NaN is allowed where entries may be `missing`, which an `option` sets.

    Raises:
        BadInput: if one is.
    """
    if x.dtype == np.uint8 or np.isfinite(x).all():
        return
    num_inf, num_nan = int(np.isinf(x).sum()), int(np.isnan(x).sum())
    if missing and not num_inf:
        return
    if missing:
        raise BadInput(f"{name} holds {num_inf} values that are Inf{TOO_LARGE}: set missing ones to NaN")
    num_bad = num_inf + num_nan
    too_large = TOO_LARGE if num_inf else ""
    remedy = "drop or impute those datapoints" + ("" if num_inf else f", or set {option} if NaN is missing")
    raise BadInput(f"{name} holds {num_bad} values that are NaN or Inf{too_large}: {remedy}")
