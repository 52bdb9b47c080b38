"""The user's own array, from a .npy or .npz file or from memory."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset, three_way_split, three_ways
from pyro_vae.data.mapped import Mapped, not_finite
from pyro_vae.data.split import stored
from pyro_vae.errors import BadInput, one_line

LOOKED_AT = 100
"""Rows on disk by which bytes of 0 and 1 are told from grey values."""


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
            "data.path is missing: give data.path=FILE.npy or FILE.npz "
            "(for a run that fit() made of an array in memory, use vae.log_prob)"
        )
    # names may look like numbers
    key, label_key = (None if name is None else str(name) for name in (key, label_key))
    y = None if label_key is None else _read(path, label_key, "label_key")
    x = _read(path, key, labels=label_key)
    name = f"data.path={path}" + (f", data.key={key}" if key else "")
    return from_array(x, name=name, y=y, label_name=f"data.label_key={label_key}", **kwargs)


def _read(path: str, key: str | None, option: str = "key", labels: str | None = None) -> np.ndarray:
    """The entry that `data.OPTION=KEY` names, or the only one beside the labels."""
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"data.path={path}: no such file")
    try:
        with np.errstate(over="ignore"):  # sizes that nothing can have: numpy says so
            loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if key is not None:
                raise BadInput(f"data.{option}={key}: {path} holds one array without a name; leave data.{option} out")
            return loaded
        with loaded:
            others = [name for name in loaded.files if name != labels]
            if key is None and len(others) == 1:
                key = others[0]
            if key is None:
                which = f": give data.key=NAME, one of {', '.join(others)}" if others else f" beside {labels}"
                raise BadInput(f"{path} holds {len(others)} arrays{which}")
            if key not in loaded.files:
                raise BadInput(f"data.{option}={key} is no entry of {path}: choose one of {', '.join(loaded.files)}")
            _refuse_bomb(file, key)
            entry: np.ndarray = loaded[key]
            return entry
    except BadInput:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds on a broken file
        reason = "text, or Python objects" if "allow_pickle" in str(error) else one_line(error)
        entry_of = "" if key is None else f", data.{option}={key}"
        raise BadInput(
            f"data.path={path}{entry_of} is no readable .npy or .npz file ({reason}): write one of numbers "
            "by numpy.save; numpy.loadtxt reads them from text"
        ) from error


def _refuse_bomb(file: Path, key: str) -> None:
    """Refuse a compressed entry of a .npz file that would fill the memory.

    Raises:
        BadInput: if it and the copies made of it would.
    """
    with zipfile.ZipFile(file) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    size, memory = sizes.get(f"{key}.npy", sizes.get(key, 0)), physical_memory()
    if 4 * size > memory:
        gib = 2.0**30
        raise BadInput(f"data.path={file}: {key} unpacks to {size / gib:.1f} GiB: too much for {memory / gib:.1f} GiB")


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
        BadInput: if the array is empty, has no datapoint dimension or another dtype, holds NaN or Inf (on disk: when
            they are read) or bytes of 0 and 1, or if there is not one label a datapoint.
    """
    values = x if isinstance(x, np.memmap) else as_numpy(x)
    if values.dtype != np.uint8 and values.dtype != np.bool_ and values.dtype.kind != "f":
        raise BadInput(
            f"{name} has dtype {values.dtype}: convert it to floats (x.astype('float32')), or to bytes 0..255 (uint8)"
        )
    if values.size == 0:
        raise BadInput(f"{name} is empty: its shape is {list(values.shape)}")
    if values.ndim < 2:
        raise BadInput(f"{name} has shape {list(values.shape)}: a data set is [N, ...], one datapoint a row")
    looked_at = values
    if isinstance(values, np.memmap):  # rows from all over it: those of a class may come first
        looked_at = values[np.linspace(0, len(values) - 1, LOOKED_AT).astype(int)]
    if line := bytes_of_0_and_1(looked_at, name):
        raise BadInput(line)
    labels = None if y is None else _labels(as_numpy(y), len(values), label_name)
    sizes = (val_fraction, test_fraction, split_seed, max_held_out)
    if isinstance(values, np.memmap):
        parts = three_ways(len(values), labels, *sizes)
        return Dataset(*stored(Mapped(values, name), torch.Size(values.shape[1:]), parts, labels), **kwargs)
    scaled = unit_floats(values)
    if line := not_finite(scaled, name):
        raise BadInput(line)
    return Dataset(*three_way_split(torch.from_numpy(scaled), labels, *sizes), **kwargs)


def _labels(y: np.ndarray, n: int, name: str) -> Tensor:
    if y.shape != (n,):
        raise BadInput(f"{name} has shape {list(y.shape)}: it must hold a label for each of {n} datapoints, [{n}]")
    labels = whole_numbers(y)
    if (labels < 0).any():
        raise BadInput(f"{name} must hold labels 0, 1, 2, …: number the classes from 0 on")
    return torch.from_numpy(labels)


def whole_numbers(y: np.ndarray) -> np.ndarray:
    """y as int64; −1 where it is no whole number: how data sets and `VAE` read labels."""
    if y.dtype.kind not in "biuf":
        return np.full(y.shape, -1)
    with np.errstate(invalid="ignore"):  # NaN and Inf become what they do not equal
        whole = y.astype(np.int64)
    return np.where(whole == y, whole, -1)


def physical_memory() -> float:
    """Bytes of memory that this machine has; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else math.inf


def as_numpy(x: Any) -> np.ndarray:
    """The array, or the tensor's, on the CPU; NaN where it is masked."""
    if isinstance(x, Tensor):
        return (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
    if np.ma.is_masked(x) and x.dtype.kind in "biuf":
        return np.where(np.ma.getmaskarray(x), np.float32(np.nan), unit_floats(np.asarray(x)))
    return np.asarray(x)


def bytes_of_0_and_1(x: np.ndarray, name: str) -> str | None:
    """A line about bytes that are not meant as grey values of 255, if they look like it."""
    if x.dtype != np.uint8 or x.max() != 1:
        return None
    return f"{name} holds bytes of 0 and 1, and bytes are divided by 255: give booleans (x.astype(bool)) or floats"


def unit_floats(x: np.ndarray) -> np.ndarray:
    """Bytes divided by 255, all else as float32: how data sets and `VAE` read arrays."""
    with np.errstate(over="ignore"):  # what overflows becomes Inf
        return x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
