"""The user's own array, from a .npy or .npz file or from memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.mapped import Mapped, require_finite
from pyro_vae.data.npy import read
from pyro_vae.data.split import split_indices, stored, three_way_split
from pyro_vae.data.values import as_array, as_floats, integers, refuse_bits, require_dtype, to_numpy
from pyro_vae.errors import BadInput
from pyro_vae.errors.memory import require_memory

LOOKED_AT, LOOKED_AT_BYTES = 100, 2**25
"""Rows on disk, and their bytes, that are read at most to tell bytes of 0 and 1 from grey values."""


def array(path: str | None, key: str | None = None, label_key: str | None = None, **kwargs: Any) -> Dataset:
    """The array `[N, ...]` in a .npy file, or the entry `key` of a .npz file. Nothing in it is executed.

    A .npy file may be larger than memory: it is mapped, and training data are read as they are needed.

    Args:
        path: the file.
        key: entry of a .npz file; may be left out where there is just one beside the labels.
        label_key: entry of the .npz file with integer labels `[N]`.
        **kwargs: as for `from_array`.

    Raises:
        BadInput: if the file or entry is missing or unreadable, and as `from_array` does.
    """
    if path is None:
        raise BadInput(
            "path is missing: give path=FILE.npy or path=FILE.npz "
            "(for a run that fit() made of an array in memory, use vae.log_prob)"
        )
    # names may look like numbers
    path, (key, label_key) = str(path), (None if name is None else str(name) for name in (key, label_key))
    y = None if label_key is None else read(path, label_key, "label_key")
    x = read(path, key, labels=label_key)
    name = f"path={path}" + (f", key={key}" if key else "")
    return from_array(x, name=name, y=y, label_name=f"label_key={label_key}", **kwargs)


def from_array(
    x: np.ndarray | Tensor,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    name: str = "x",
    y: np.ndarray | Tensor | None = None,
    label_name: str = "y",
    max_held_out: int | None = 10_000,
    **kwargs: Any,
) -> Dataset:
    """A data set of an array `[N, ...]`: floats as they are, bytes divided by 255, booleans as 0 and 1.

    Args:
        x: the array; of a `np.memmap`, training data stay on disk.
        val_fraction: share of the validation set.
        test_fraction: share of the test set.
        split_seed: seed of the random split.
        name: what messages call the array.
        y: integer labels `[N]` from 0 on, by which the splits are then stratified.
        label_name: what messages call the labels.
        max_held_out: at most so many datapoints for validation, and as many for testing: they are kept in memory.
        **kwargs: `binarize`, `eval_seed`, `num_levels` and `dequantize` of `Dataset`.

    Raises:
        BadInput: if x is not an array, is empty, has no datapoint dimension or another dtype, holds NaN or Inf (on
            disk: when they are read) or bytes of 0 and 1, or if there is not one label a datapoint.
    """
    values = as_array(x, name)
    require_dtype(values, name)
    if 0 in values.shape:
        raise BadInput(f"{name} is empty: its shape is {list(values.shape)}")
    if values.ndim < 2:
        raise BadInput(f"{name} has shape {list(values.shape)}: a data set is [N, ...], one datapoint a row")
    labels = None if y is None else _labels(y, len(values), label_name)
    sizes = (val_fraction, test_fraction, split_seed, max_held_out)
    if isinstance(values, np.memmap):
        parts = split_indices(len(values), labels, *sizes)
        splits = stored(Mapped(values, name), torch.Size(values.shape[1:]), parts, labels)
        num_rows = min(LOOKED_AT, max(1, LOOKED_AT_BYTES // values[0].nbytes))
        # from all over the file: rows may be sorted by class
        refuse_bits(values[np.linspace(0, len(values) - 1, num_rows).astype(int)], name)
        return Dataset(*splits, **kwargs)
    num_values = math.prod(values.shape)
    require_memory(4 * num_values, f"{name} takes, as floats,", "give a .npy file, or np.load(FILE, 'r')", copies=2)
    floats = as_floats(values, name, device="cpu")
    require_finite(floats.numpy(), name)
    return Dataset(*three_way_split(floats, labels, *sizes), **kwargs)


def _labels(y: Any, n: int, name: str) -> Tensor:
    values = to_numpy(as_array(y, name))
    if values.shape != (n,):
        raise BadInput(f"{name} has shape {list(values.shape)}: it must hold a label for each of {n} datapoints, [{n}]")
    labels = integers(values)
    if (labels < 0).any():
        raise BadInput(f"{name} must hold labels 0, 1, 2, …: number the classes from 0 on")
    return torch.from_numpy(labels)
