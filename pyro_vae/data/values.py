"""Conversion of arrays, tensors and lists to data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_vae.data.frames import is_frame, not_numbers
from pyro_vae.data.sparse import is_sparse
from pyro_vae.data.units import Units
from pyro_vae.errors import BadInput, one_line, shown

Array = Tensor | np.ndarray

BYTES = (torch.uint8, np.uint8)
BOOLEANS = (torch.bool, np.bool_)
SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)
"""Types that NumPy does not iterate over."""

GREY = Units()

MAX_DEPTH = 32
MAX_IN_LISTS = 10**8
"""A few small lists that repeat each other can stand for more numbers than fit into memory."""


def as_array(x: Any, name: str) -> Array:
    """Convert x to a dense tensor or NumPy array; memory maps and masked arrays are kept.

    Only lists and tuples are iterated over: `numpy.asarray` would never return if a `__getitem__` never ends.

    Raises:
        BadInput: if x is not an array, has no `__array__`, and is not a list of numbers.
    """
    if isinstance(x, Tensor):
        return dense(x, name)
    if isinstance(x, np.ndarray):
        return x
    kind = type(x).__name__
    if isinstance(x, (Dataset, DataLoader)):
        raise BadInput(f"{name} has type {kind}: give one tensor or array")
    if is_sparse(x):
        raise BadInput(f"{name} has type {kind}, which is sparse: give a dense array, {name}.toarray()")
    if isinstance(x, (list, tuple)):
        return _of_lists(x, name)
    if isinstance(x, (bool, int, float, complex)) or hasattr(type(x), "__array__"):
        try:
            array = np.asarray(x)
        except Exception as error:  # raised by the object's own code
            raise BadInput(
                f"{name} has type {kind}, which cannot be converted to an array ({one_line(error)})"
            ) from error
        if array.dtype.kind == "O" and is_frame(x) and (others := not_numbers(x)):
            listed = ", ".join(map(shown, others))
            raise BadInput(
                f'{name} has columns that are not numbers ({listed}): choose likelihood="table", or leave them out'
            )
        return array
    raise BadInput(f"{name} has type {kind}: give a tensor, a NumPy array, or lists of numbers")


def as_floats(
    x: Any,
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    units: Units = GREY,
) -> Tensor:
    """Convert data to a tensor of floats: integers are divided by their unit, masked values become NaN.

    Args:
        x: an array, a tensor or lists, as for `as_array`.
        name: name of x in messages.
        dtype: dtype of the result.
        device: device of the result; None: that of a tensor x, else the CPU.
        units: divisors of bytes (255 by default) and of other integers (1).

    Raises:
        BadInput: as `as_array`, `require_dtype` and `refuse_bits` do.
    """
    array = as_array(x, name)
    unit = unit_of(array, name, units)
    refuse_bits(array, name, unit)
    where = device or (array.device if isinstance(array, Tensor) else torch.device("cpu"))
    if array.dtype in BYTES and unit != 1:
        return (_tensor(array, torch.float32) / unit).to(where, dtype)
    floats = _tensor(array, dtype).to(where)
    return floats if unit == 1 else floats / unit


def as_latents(z: Any, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Convert latents, any real numbers, to a tensor of floats.

    Raises:
        BadInput: as `as_array`, and if they are not real numbers.
    """
    array = as_array(z, name)
    real = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "biuf"
    if not real:
        raise BadInput(f"{name} has dtype {array.dtype}: give real numbers")
    return _tensor(array, dtype).to(device)


def unit_of(x: Array, name: str, units: Units) -> int:
    """Return what the numbers in x are divided by, which is 1 except for integers.

    Raises:
        BadInput: if x does not hold real numbers, with the dtype and how to convert it.
    """
    floats = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
    if floats or x.dtype in BOOLEANS:
        return 1
    if x.dtype in BYTES:
        return units.of_bytes
    if x.is_complex() if isinstance(x, Tensor) else x.dtype.kind not in "iu":
        to_floats = f"{name}.float()" if isinstance(x, Tensor) else "x.astype('float32')"
        raise BadInput(f"{name} has dtype {x.dtype}: convert it to floats ({to_floats}), or to bytes 0..255 (uint8)")
    return units.of_integers


def refuse_bits(x: Array, name: str, unit: int) -> None:
    """Refuse bytes that are all 0 or 1, which are unlikely to be grey values from 0 to 255, and have a unit of 255.

    Raises:
        BadInput: if they are.
    """
    if x.dtype in BYTES and unit != 1 and 0 not in x.shape and bool(x.max() == 1):
        to_booleans = f"{name}.bool()" if isinstance(x, Tensor) else "x.astype(bool)"
        raise BadInput(
            f"{name} holds bytes of 0 and 1, and bytes are divided by 255: give booleans ({to_booleans}) or floats"
        )


def to_numpy(x: Array) -> np.ndarray:
    """Convert to a NumPy array; masked values become NaN."""
    if isinstance(x, Tensor):
        return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()
    if np.ma.is_masked(x) and x.dtype.kind in "biuf":
        return np.where(np.ma.getmaskarray(x), np.nan, np.asarray(x))
    return np.asarray(x)


def integers(y: np.ndarray) -> np.ndarray:
    """Convert labels y to int64, with −1 where they are not integers."""
    if y.dtype.kind not in "biuf":
        return np.full(y.shape, -1)
    with np.errstate(invalid="ignore"):  # NaN and Inf become integers that they do not equal
        whole = y.astype(np.int64)
    return np.where(whole == y, whole, -1)


def dense(x: Tensor, name: str) -> Tensor:
    """Detach x.

    Raises:
        BadInput: if it is sparse, nested, quantized or on the meta device.
    """
    if x.is_nested:
        raise BadInput(f"{name} is a nested tensor: give a dense one, [N, ...]")
    if x.layout != torch.strided:
        raise BadInput(f"{name} is a sparse tensor ({x.layout}): give a dense one, {name}.to_dense()")
    if x.is_quantized:
        raise BadInput(f"{name} is a quantized tensor: give floats, {name}.dequantize()")
    if x.is_meta:
        raise BadInput(f"{name} is a tensor on the meta device, which holds no values: give a tensor on another device")
    return x.detach()


def _of_lists(x: list[Any] | tuple[Any, ...], name: str) -> np.ndarray:
    """Convert nested lists of scalars, of equal lengths at each depth, to an array."""
    shape: list[int] = []
    first: Any = x
    while isinstance(first, (list, tuple)) and len(shape) <= MAX_DEPTH:
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > MAX_DEPTH or math.prod(shape) > MAX_IN_LISTS:
        raise BadInput(f"{name} is too long or too deeply nested a list: give an array")
    level: list[Any] = list(x)
    for length in shape[1:]:
        if not all(isinstance(row, (list, tuple)) and len(row) == length for row in level):
            raise BadInput(f"{name} is a ragged list: all its rows must have the same length")
        level = [value for row in level for value in row]
    for kind in {type(value) for value in level}:
        if issubclass(kind, Tensor):
            raise BadInput(f"{name} is a list of tensors: give one tensor, torch.stack({name})")
        if issubclass(kind, (list, tuple)):
            raise BadInput(f"{name} is a ragged list: all its rows must have the same length")
        if not issubclass(kind, SCALARS):
            raise BadInput(f"{name} is a list of type {kind.__name__}: give one array, as np.stack({name})")
    if any(value is None for value in level):  # a missing entry
        level = [math.nan if value is None else value for value in level]
    return np.asarray(level).reshape(shape)


def _tensor(x: Array, dtype: torch.dtype) -> Tensor:
    """Convert real numbers to a tensor of floats, on the device of x."""
    if isinstance(x, Tensor):
        return x.to(dtype)
    with np.errstate(over="ignore"):  # overflow gives Inf
        # torch accepts neither other byte orders nor negative strides, and warns about read-only arrays
        floats = np.asarray(x, np.float64 if dtype == torch.float64 else np.float32, order="C")
    if np.ma.is_masked(x):
        floats = np.where(np.ma.getmaskarray(x), floats.dtype.type(np.nan), floats)
    return torch.from_numpy(floats if floats.flags.writeable else floats.copy()).to(dtype)
