"""Which arrays are accepted as data, and how their numbers are read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_vae.errors import BadInput, one_line

Array = Tensor | np.ndarray

BYTES = (torch.uint8, np.uint8)
BOOLEANS = (torch.bool, np.bool_)
SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)
"""Types that NumPy does not iterate."""

MAX_DEPTH = 32
MAX_IN_LISTS = 10**8
"""A list may hold another many times: a few small lists can stand for more numbers than memory holds."""


def as_array(x: Any, name: str) -> Array:
    """A dense tensor or NumPy array of the caller's x; memory maps and masked arrays stay what they are.

    Nothing but lists and tuples is iterated: `numpy.asarray` would call a `__getitem__` that never ends for ever.

    Raises:
        BadInput: if x is neither an array, nor converts itself to one (`__array__`), nor lists of numbers.
    """
    if isinstance(x, Tensor):
        return dense(x, name)
    if isinstance(x, np.ndarray):
        return x
    kind = type(x).__name__
    if isinstance(x, TensorDataset):
        raise BadInput(f"{name} has type {kind}: give its tensor, {name}.tensors[0]")
    if isinstance(x, (Dataset, DataLoader)):
        raise BadInput(
            f"{name} has type {kind}: give one tensor [N, ...], as torch.stack([x for x, _ in dataset]) makes"
        )
    if isinstance(x, (list, tuple)):
        return _of_lists(x, name)
    if isinstance(x, (bool, int, float, complex)) or hasattr(type(x), "__array__"):
        try:
            return np.asarray(x)
        except Exception as error:  # it is the object's own code
            raise BadInput(f"{name} has type {kind}, which converts to no array ({one_line(error)})") from error
    raise BadInput(f"{name} has type {kind}: give a tensor, a NumPy array, or lists of numbers")


def as_floats(
    x: Any, name: str, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Data as a tensor of floats: floats as they are, bytes divided by 255, booleans as 0 and 1, NaN where masked.

    Args:
        x: what `as_array` accepts.
        name: what messages call it.
        dtype: of the result.
        device: of the result; None: that of a tensor x, else the CPU.

    Raises:
        BadInput: as `as_array`, `require_dtype` and `refuse_bits` do.
    """
    array = as_array(x, name)
    require_dtype(array, name)
    refuse_bits(array, name)
    where = device or (array.device if isinstance(array, Tensor) else torch.device("cpu"))
    if array.dtype in BYTES:
        return (_tensor(array, torch.float32) / 255).to(where, dtype)
    return _tensor(array, dtype).to(where)


def as_latents(z: Any, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Latents as a tensor of floats: any real numbers, as they are.

    Raises:
        BadInput: as `as_array` does, and if they are not real numbers.
    """
    array = as_array(z, name)
    real = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "biuf"
    if not real:
        raise BadInput(f"{name} has dtype {array.dtype}: give real numbers")
    return _tensor(array, dtype).to(device)


def require_dtype(x: Array, name: str) -> None:
    """Refuse anything but floats, bytes and booleans: the scale of other integers is unknown.

    Raises:
        BadInput: naming the dtype, and how to convert it.
    """
    floats = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
    if not floats and x.dtype not in BYTES + BOOLEANS:
        to_floats = f"{name}.float()" if isinstance(x, Tensor) else "x.astype('float32')"
        raise BadInput(f"{name} has dtype {x.dtype}: convert it to floats ({to_floats}), or to bytes 0..255 (uint8)")


def refuse_bits(x: Array, name: str) -> None:
    """Refuse bytes that are all 0 or 1, which were hardly meant as grey values of 255.

    Raises:
        BadInput: if so.
    """
    if x.dtype in BYTES and 0 not in x.shape and bool(x.max() == 1):
        to_booleans = f"{name}.bool()" if isinstance(x, Tensor) else "x.astype(bool)"
        raise BadInput(
            f"{name} holds bytes of 0 and 1, and bytes are divided by 255: give booleans ({to_booleans}) or floats"
        )


def to_numpy(x: Array) -> np.ndarray:
    """The same array on the CPU, for NumPy; NaN where it is masked."""
    if isinstance(x, Tensor):
        return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()
    if np.ma.is_masked(x) and x.dtype.kind in "biuf":
        return np.where(np.ma.getmaskarray(x), np.nan, np.asarray(x))
    return np.asarray(x)


def integers(y: np.ndarray) -> np.ndarray:
    """y as int64; −1 where it is not an integer: how data sets and `VAE` read labels."""
    if y.dtype.kind not in "biuf":
        return np.full(y.shape, -1)
    with np.errstate(invalid="ignore"):  # NaN and Inf become some integer, which they do not equal
        whole = y.astype(np.int64)
    return np.where(whole == y, whole, -1)


def dense(x: Tensor, name: str) -> Tensor:
    """x without its gradients.

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
        raise BadInput(f"{name} is a tensor on the meta device, which holds no values: give one that does")
    return x.detach()


def _of_lists(x: list[Any] | tuple[Any, ...], name: str) -> np.ndarray:
    """The array of nested lists of scalars, which must have the same length at each depth."""
    shape: list[int] = []
    first: Any = x
    while isinstance(first, (list, tuple)) and len(shape) <= MAX_DEPTH:
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > MAX_DEPTH or math.prod(shape) > MAX_IN_LISTS:
        raise BadInput(f"{name} is a list too deep or too long to be read: give an array")
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
    return np.asarray(level).reshape(shape)


def _tensor(x: Array, dtype: torch.dtype) -> Tensor:
    """Real numbers as a tensor of floats, on the device of x."""
    if isinstance(x, Tensor):
        return x.to(dtype)
    with np.errstate(over="ignore"):  # what overflows becomes Inf
        # torch does not take other byte orders or negative strides, and warns of read-only arrays
        floats = np.asarray(x, np.float64 if dtype == torch.float64 else np.float32, order="C")
    if np.ma.is_masked(x):
        floats = np.where(np.ma.getmaskarray(x), floats.dtype.type(np.nan), floats)
    return torch.from_numpy(floats if floats.flags.writeable else floats.copy()).to(dtype)
