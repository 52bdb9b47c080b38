"""Data sets of your own arrays, from a .npy or .npz file or from memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.covariates import in_x_or_apart
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.files import given_by
from pyro_vae.data.frames import RESOLUTION
from pyro_vae.data.mapped import Mapped, require_finite
from pyro_vae.data.npy import read
from pyro_vae.data.schema import Column, plain
from pyro_vae.data.sources import source_of
from pyro_vae.data.sparse import SparseRows, is_sparse
from pyro_vae.data.split import Split, Stored, split_indices, stored, three_way_split
from pyro_vae.data.units import Units, units_of
from pyro_vae.data.values import BYTES, Array, as_array, as_floats, refuse_bits, to_numpy, unit_of
from pyro_vae.data.y import given_y, y_like
from pyro_vae.errors import BadInput, true_false
from pyro_vae.errors.memory import require_memory

log = logging.getLogger(__name__)

LOOKED_AT, LOOKED_AT_BYTES = 100, 2**25
"""Maximum number of rows on disk, and of their bytes, read to tell bytes of 0 and 1 from grey values."""
PART = 2**20
"""Number of values whose rounding errors are looked at."""


def array(
    path: str | None,
    key: str | None = None,
    label_key: str | None = None,
    val_path: str | None = None,
    test_path: str | None = None,
    **kwargs: Any,
) -> Dataset:
    """Load the array `[N, ...]` in a .npy file, or the entry `key` of a .npz file, without executing code from it.

    A .npy file may be larger than memory: training data are then streamed from disk. A .npz file of
    `scipy.sparse.save_npz` holds a sparse matrix, in the format csr or csc.

    Args:
        path: the file.
        key: entry of a .npz file; optional if there is only one besides the labels.
        label_key: entry of the .npz file with labels `[N]`, integers or names, or continuous covariates `[N, M]`.
        val_path: file with the validation data, instead of a share of the data; with the same entries.
        test_path: file with the test data, likewise.
        **kwargs: as for `from_array`.

    Raises:
        BadInput: if the file or entry is missing or unreadable, or `from_array` rejects the array.
    """
    if path is None:
        raise BadInput(
            "path is missing: give path=FILE.npy or path=FILE.npz "
            "(or, for a run that fit() trained on an array in memory, use vae.log_prob)"
        )
    # names may look like numbers
    key, label_key = (None if name is None else str(name) for name in (key, label_key))

    def of(file: Any, option: str) -> tuple[Any, Any]:
        with given_by(option):
            y = None if label_key is None else read(str(file), label_key, "label_key")
            return read(str(file), key, labels=label_key), y

    (x, y), name = of(path, "path"), f"path={path}" + (f", key={key}" if key else "")
    val, test = (
        None if file is None else of(file, option)
        for file, option in ((val_path, "val_path"), (test_path, "test_path"))
    )
    return from_array(
        x, name=name, y=y, label_name=f"label_key={label_key}", validation=val, test=test,
        val_name=f"val_path={val_path}", test_name=f"test_path={test_path}", **kwargs
    )  # fmt: skip


def from_array(
    x: Any,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    name: str = "x",
    y: Any = None,
    label_name: str = "y",
    max_held_out: int | None = 10_000,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    val_name: str = "validation_data",
    test_name: str = "test",
    missing: bool | str = "auto",
    integers: str = "values",
    classes: Sequence[str] = (),
    features: Sequence[str] = (),
    **kwargs: Any,
) -> Dataset:
    """Make a data set of an array `[N, ...]`: bytes are divided by 255, booleans become 0 and 1, others are kept.

    Args:
        x: the array; training data of a `np.memmap` stay on disk. Or a sparse matrix of SciPy `[N, P]`, whose training
            data stay sparse: only batches are dense. Or a map-style data set of PyTorch, or AnnData (`source_of`).
        val_fraction: share of the data for validation.
        test_fraction: share of the data for testing.
        split_seed: seed of the random split.
        name: name of the array in messages.
        y: labels `[N]`: names, or integers from 0 on, −1 where they are missing; or the name of a column of `x.obs`.
            The splits are stratified by them.
            Or covariates: an array `[N, M]` of numbers, a data frame, or names of columns of x, if x is a data frame.
        label_name: name of the labels in messages.
        max_held_out: maximum number of datapoints for validation, and for testing: both sets are kept in memory.
        validation: validation data and their labels or None, instead of a share of x.
        test: test data and their labels or None, instead of a share of x.
        val_name: name of the validation data in messages.
        test_name: name of the test data in messages.
        missing: whether entries may be missing, which are NaN or masked: a model then learns from the observed ones.
            `auto`: if there are any; on disk they are only looked for with True.
        integers: `values`, `counts` or `levels`: what integers in x stand for (`units_of`).
        classes: names of the classes of y, if they have any.
        features: names of the columns of x, if they have any; None are needed if x is a data frame or AnnData.
        **kwargs: `binarize`, `eval_seed`, `num_levels`, `dequantize`, `num_labels` and `standardize` of `Dataset`.

    Raises:
        BadInput: if x is not one of these, is empty, has fewer than 2 dimensions or an unsupported dtype, holds Inf, or
            NaN with `missing=False` (found on disk when they are read) or bytes of 0 and 1, or if y does not hold one
            label per datapoint.

    Example:
        >>> from_array(torch.rand(100, 6), val_fraction=0.2).sizes
        {'train': 70, 'val': 20, 'test': 10}
    """
    if missing != "auto":
        true_false("missing", missing)
    nan = missing is not False
    x, y, names, _, own = source_of(x, y, name)
    units = units_of(integers, kwargs.get("num_levels", 256))
    values = _checked(x, name, units)
    labels, columns = (None, ()) if y is None else given_y(y, len(values), label_name)
    if labels is not None and not columns and (labels < 0).all():
        raise BadInput(f"{label_name}: all labels are missing (-1 or NaN), leave it out")
    shares = (val_fraction if validation is None else 0.0, test_fraction if test is None else 0.0)
    sizes = (*shares, split_seed, max_held_out)
    every: tuple[Split | Stored, Split, Split]
    if isinstance(values, SparseRows):
        values.check(name, nan)
        every = stored(values, values.shape[1:], split_indices(len(values), labels, *sizes), labels)
    elif isinstance(values, np.memmap):
        parts, unit = split_indices(len(values), labels, *sizes), unit_of(values, name, units)
        rows = Mapped(values, name, missing is True, unit)
        every = stored(rows, torch.Size(values.shape[1:]), parts, labels)
        num_rows = min(LOOKED_AT, max(1, LOOKED_AT_BYTES // values[0].nbytes))
        # from all over the file: rows may be sorted by class
        refuse_bits(values[np.linspace(0, len(values) - 1, num_rows).astype(int)], name, unit)
    else:
        every = three_way_split(_in_memory(values, name, nan, units), labels, *sizes)
    train, val, held_out = every
    like = _Like(
        train.data_shape,
        labels is not None,
        columns,
        tuple(names or classes),
        nan,
        units,
        getattr(values, "dtype", None),
    )
    val = val if validation is None else _apart(validation, val_name, like)
    held_out = held_out if test is None else _apart(test, test_name, like)
    parts_in_memory = [split.x for split in (train, val, held_out) if isinstance(split, Split)]
    incomplete = missing is True or any(bool(part.isnan().any()) for part in parts_in_memory)
    incomplete |= isinstance(values, SparseRows) and values.incomplete
    return Dataset(
        train, val, held_out, missing=incomplete, classes=names or classes, covariates=plain(columns),
        features=own or features, apart=validation is not None and test is not None, **kwargs
    )  # fmt: skip


def _checked(x: Any, name: str, units: Units) -> Array | SparseRows:
    values = SparseRows(x, name, units) if is_sparse(x) else as_array(x, name)
    if not isinstance(values, SparseRows):
        unit_of(values, name, units)
    if 0 in values.shape:
        raise BadInput(f"{name} is empty: its shape is {list(values.shape)}")
    if len(values.shape) < 2:
        raise BadInput(f"{name} has shape {list(values.shape)}: it must be [N, ...], one datapoint per row")
    return values


def _in_memory(values: Array | SparseRows, name: str, nan: bool, units: Units) -> Tensor:
    num_values = math.prod(values.shape)
    require_memory(4 * num_values, f"{name} takes, as floats,", "give a .npy file, or np.load(FILE, 'r')", copies=2)
    if isinstance(values, SparseRows):
        values.check(name, nan)
        return torch.cat(list(values.chunks()))
    floats = as_floats(values, name, device="cpu", units=units)
    require_finite(floats.numpy(), name, nan, "missing=auto")
    if unit_of(values, name, units) == 1:
        _warn_of_rounding(to_numpy(values[: max(2, PART // math.prod(values.shape[1:]))]), name)
    return floats


def _warn_of_rounding(x: np.ndarray, name: str) -> None:
    """Warn if single precision does not resolve how a dimension of x `[N, ...]` varies."""
    x = x.reshape(len(x), -1)
    if x.dtype.itemsize < 8:
        return
    error, low, high = abs(x.astype(np.float32) - x), np.fmin.reduce(x, 0), np.fmax.reduce(x, 0)
    if len(bad := np.flatnonzero(np.fmax.reduce(error, 0) > RESOLUTION * (high - low))):
        log.warning(
            "%s varies too little for single precision in %d of %d dimensions, such as %d, from %.9g to %.9g: subtract "
            "a number from it", name, len(bad), x.shape[1], bad[0], low[bad[0]], high[bad[0]],
        )  # fmt: skip


class _Like(NamedTuple):
    """What validation and test data that are given apart share with the training data."""

    data_shape: torch.Size
    labelled: bool
    columns: Sequence[Column]
    classes: Sequence[str]
    nan: bool
    units: Units
    dtype: Any


def _apart(data: tuple[Any, Any], name: str, like: _Like) -> Split:
    """Return validation or test data that are given apart, in memory."""
    other, y = in_x_or_apart(*data, [column.name for column in like.columns])
    values = _checked(other, name, like.units)
    x = _in_memory(values, name, like.nan, like.units)
    if x.shape[1:] != like.data_shape:
        raise BadInput(f"{name} has shape {list(x.shape)}: x has [N, {', '.join(map(str, like.data_shape))}]")
    dtype, largest = getattr(values, "dtype", None), x.nan_to_num(0.0).max()
    if like.dtype in BYTES and like.units.of_bytes != 1 and dtype not in BYTES and largest > 1:
        raise BadInput(
            f"{name} has dtype {dtype} and values up to {largest:.6g}, but x holds bytes, which are divided by 255: "
            "give both the same dtype"
        )
    return Split(x, y_like(y, like.columns, len(x), like.labelled, name, like.classes))
