"""Convert arrays and labels of users to tensors for a VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.frames import is_frame, names_of, opened, to_x
from pyro_vae.data.schema import Column
from pyro_vae.data.units import Units
from pyro_vae.data.values import GREY, Array, as_array, as_floats, as_latents, integers, to_numpy
from pyro_vae.errors import BadInput, shown

Labels = Any
"""One class label for all datapoints, or one for each of N; integers, or names of classes. Or covariates: a data frame
or a mapping of their columns, rows `[N, M]`, a single row, or names of columns of x, if x is a data frame
(`data.covariates.values_for`). Or None."""


def as_data(
    x: Array,
    data_shape: Sequence[int],
    like: Tensor,
    nan: bool = False,
    inf: bool = False,
    columns: Sequence[Column] = (),
    units: Units = GREY,
) -> Tensor:
    """Return x as floats `[N, *data_shape]`, of the dtype and on the device of `like`; NaN and Inf only if allowed.

    With the `columns` of a table, x may be a data frame, and NaN is always allowed. Integers are divided by `units`.

    Raises:
        BadInput: if x has another shape, is empty, or holds values that are not allowed.
    """
    x = to_x(x, columns) if columns and is_frame(x) else as_array(x, "x")
    if tuple(x.shape[1:]) != tuple(data_shape):
        raise BadInput(f"x has shape {list(x.shape)}: this VAE needs [N, {', '.join(map(str, data_shape))}]")
    if not len(x):
        raise BadInput("x is empty: give at least one datapoint")
    x = as_floats(x, "x", like.dtype, like.device, units)
    if not (nan or columns) and x.isnan().any():
        raise BadInput(
            "x holds NaN, but the training data were complete: train with the option data.missing=true (of fit: "
            "overrides=['data.missing=true']), or draw the missing values with impute(x)"
        )
    if not inf and x.isinf().any():
        raise BadInput("x holds infinite values: set missing ones to NaN")
    return x


def as_observed(mask: Any, x: Tensor, column_names: Sequence[str] = ()) -> Tensor:
    """Return where x `[N, *data_shape]` is observed, as booleans of its shape: by the mask, or where x is not NaN.

    The mask may be a data frame, of which the columns with these names are taken, if x has any.

    Raises:
        BadInput: if the mask is not boolean or has another shape, or an observed value is not finite.
    """
    if mask is None:
        observed = ~x.isnan()
    else:
        if is_frame(mask) and column_names:
            if lacking := [name for name in column_names if name not in names_of(mask)]:
                raise BadInput(f"mask lacks the column {shown(lacking[0])}: give it the columns of x")
            table = opened(mask, "mask")
            mask = np.stack([np.array(table[name].to_list()) for name in column_names], 1)
        known = np.array(to_numpy(as_array(mask, "mask")), order="C")
        if known.dtype != np.bool_:
            raise BadInput(f"mask has dtype {known.dtype}: it must be boolean, True where x is observed")
        observed = torch.from_numpy(known).to(x.device)
        try:
            observed = observed.broadcast_to(x.shape)
        except RuntimeError as error:
            raise BadInput(f"mask has shape {list(observed.shape)}: it must broadcast to {list(x.shape)}") from error
    if not x[observed].isfinite().all():
        raise BadInput(
            "x holds observed values that are NaN or Inf: mask them, or set them to NaN and leave the mask out"
        )
    return observed


def as_labels(y: Labels, n: int, num_classes: int, device: torch.device) -> Tensor:
    """Return y as labels `[n]` for a VAE with so many classes.

    Raises:
        BadInput: if they are missing or out of range.
    """
    expected = f"labels from 0 to {num_classes - 1}, one or {n} of them"
    if y is None:
        raise BadInput(f"this VAE is conditional: give y, {expected}")
    try:
        labels = integers(to_numpy(as_array(y, "y")))
    except BadInput:  # not even an array
        labels = np.full((), -1)
    if labels.shape not in ((), (n,)) or labels.min() < 0 or labels.max() >= num_classes:
        raise BadInput(f"y={shown(y)} must be {expected}")
    return torch.as_tensor(labels, device=device).expand(n)


def as_z(z: Array, latent_dim: int, like: Tensor) -> Tensor:
    """Return z as floats `[..., latent_dim]`, of the dtype and on the device of `like`.

    Raises:
        BadInput: if z has another shape, or values that are not finite.
    """
    z = as_latents(z, "z", like.dtype, like.device)
    if z.ndim < 1 or z.shape[-1] != latent_dim:
        raise BadInput(f"z has shape {list(z.shape)}: this VAE needs [..., {latent_dim}]")
    if not z.isfinite().all():
        raise BadInput("z holds values that are NaN or Inf")
    return z
