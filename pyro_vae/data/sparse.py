"""Sparse matrices of SciPy, whose rows are densified a few at a time. Imports no SciPy."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_vae.data.mapped import require_finite
from pyro_vae.data.split import CHUNK_BYTES
from pyro_vae.data.units import Units
from pyro_vae.errors import BadInput


def is_sparse(x: Any) -> bool:
    """Whether x is a sparse matrix or array of SciPy, which then has been imported already."""
    scipy = sys.modules.get("scipy.sparse")
    return scipy is not None and bool(scipy.issparse(x))


def densified(rows: Any) -> np.ndarray:
    """Return a few rows of a sparse matrix as a NumPy array `[B, P]`."""
    dense: np.ndarray = rows.toarray()
    return dense


class SparseRows(Dataset[Tensor]):
    """Rows of a sparse matrix `[N, P]`, dense when they are read.

    Args:
        x: matrix or array of `scipy.sparse`, of any format.
        name: name of x in messages.
        units: what integers are divided by.

    Raises:
        BadInput: if x is not a matrix of real numbers, or holds grey values that are all 0 or 1.
    """

    def __init__(self, x: Any, name: str, units: Units = Units()) -> None:  # noqa: B008  # immutable
        if len(x.shape) != 2:
            raise BadInput(f"{name} has shape {list(x.shape)}: a sparse one must be [N, P], one datapoint per row")
        if x.dtype.kind not in "biuf":
            raise BadInput(f"{name} has dtype {x.dtype}: give real numbers")
        self.csr = x.tocsr()
        self.shape = torch.Size(x.shape)
        self.unit = 1 if x.dtype.kind in "bf" else units.of_bytes if x.dtype == np.uint8 else units.of_integers
        if x.dtype == np.uint8 and self.unit != 1 and self.csr.data.max(initial=0) == 1:
            raise BadInput(f"{name} holds bytes of 0 and 1, and bytes are divided by {self.unit}: give x.astype(bool)")

    def __len__(self) -> int:
        return int(self.shape[0])

    def check(self, name: str, nan: bool) -> None:
        """Check the stored entries, all others being 0.

        Raises:
            BadInput: if one is Inf, or NaN and these are not allowed.
        """
        with np.errstate(over="ignore"):  # overflow gives Inf
            require_finite(self.csr.data.astype(np.float32), name, nan, "missing=auto")

    @property
    def incomplete(self) -> bool:
        """Whether a stored entry is NaN, and missing."""
        return bool(np.isnan(self.csr.data).any())

    @property
    def num_at_once(self) -> int:
        """Number of rows in a chunk."""
        return max(1, CHUNK_BYTES // (4 * max(1, self.shape[1])))

    def dense(self, rows: Any, dtype: Any = np.float32) -> Tensor:
        """Return the rows at a slice or a list of indices as a dense tensor `[B, P]`."""
        with np.errstate(over="ignore"):
            floats = densified(self.csr[rows]).astype(dtype, copy=False)
        return torch.from_numpy(floats) / self.unit if self.unit != 1 else torch.from_numpy(floats)

    def chunks(self, dtype: Any = np.float32) -> Iterator[Tensor]:
        """Yield all rows, as many at a time as fit into a chunk; without any rows, an empty chunk."""
        for i in range(0, max(1, len(self)), self.num_at_once):
            yield self.dense(slice(i, i + self.num_at_once), dtype)

    def __getitems__(self, index: Sequence[int]) -> Tensor:
        """Read float32 `[B, P]`."""
        return self.dense(list(index))
