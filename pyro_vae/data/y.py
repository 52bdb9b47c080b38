"""What a model is conditioned on: class labels or covariates, of whatever data have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.covariates import are_covariates, describe, values_for
from pyro_vae.data.labels import are_names, numbered
from pyro_vae.data.schema import Column
from pyro_vae.data.values import as_array, integers, to_numpy
from pyro_vae.errors import BadInput


def given_y(
    y: Any, n: int, name: str, kinds: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Tensor, tuple[Column, ...]]:
    """Return y as labels int64 `[n]`, or as covariates float32 `[n, M]` with their columns.

    Raises:
        BadInput: as `labels_of` and `describe` do.
    """
    if not are_covariates(y, name):
        return labels_of(y, n, name), ()
    columns, values = describe(y, n, name, kinds)
    return values, columns


def y_like(
    y: Any, columns: Sequence[Column], n: int, labelled: bool, name: str, classes: Sequence[str] = ()
) -> Tensor | None:
    """Return the y of validation or test data, like that of the training data: labels int64 `[n]` or covariates.

    Args:
        y: as given with the data, or None.
        columns: of the training data's covariates, or ().
        n: number of datapoints.
        labelled: whether the training data have labels or covariates.
        name: name of the data in messages.
        classes: names of the training data's classes, if they have any.

    Raises:
        BadInput: if y is missing, unexpected, or does not fit.
    """
    if y is None and columns:
        raise BadInput(f"{name} lacks the covariates {', '.join(column.name for column in columns[:10])}, which x has")
    if labelled != (y is not None):
        raise BadInput(
            f"{name} needs labels, as x has: give (x, y)" if labelled else f"{name} has labels, but x has none: give y"
        )
    if y is None:
        return None
    name = f"the y of {name}"
    return values_for(y, columns, n, name).float() if columns else labels_of(y, n, name, classes)


def labels_of(y: Any, n: int, name: str, classes: Sequence[str] = ()) -> Tensor:
    """Return y, labels or names of these classes, as labels int64 `[n]`.

    Raises:
        BadInput: if they are not one label 0, 1, 2, … or one known name per datapoint.
    """
    if are_names(y):
        y, _ = numbered(y, classes, name)
    values = to_numpy(as_array(y, name))
    if values.shape != (n,):
        raise BadInput(f"{name} has shape {list(values.shape)}: it must be [{n}], one label per datapoint")
    labels = integers(values)
    missing = values == -1 if values.dtype.kind != "f" else (values == -1) | np.isnan(values)
    if ((labels < 0) & ~missing).any():
        column = "; a covariate has the shape [N, 1]" if values.dtype.kind == "f" else ""
        raise BadInput(f"{name} must hold labels 0, 1, 2, …, and -1 or NaN where they are missing, or names{column}")
    return torch.from_numpy(labels)
