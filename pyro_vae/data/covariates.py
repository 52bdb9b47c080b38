"""Covariates: columns y that a model is conditioned on, continuous and categorical."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.cells import Cells, cells_from, cells_of
from pyro_vae.data.frames import is_frame, names_of, opened, require_resolution, values_of
from pyro_vae.data.recognize import recognize
from pyro_vae.data.schema import IGNORE, OF_CATEGORIES, Column, written
from pyro_vae.data.values import as_array, to_numpy
from pyro_vae.errors import BadInput, shown


def are_covariates(y: Any, name: str = "y") -> bool:
    """Whether y is a data frame or an array `[N, M]` of numbers, rather than class labels `[N]`.

    A single column `[N, 1]` of integers counts as labels of the wrong shape.
    """
    if is_frame(y):
        return True
    values = as_array(y, name)
    return len(values.shape) == 2 and (values.shape[1] > 1 or to_numpy(values[:1]).dtype.kind == "f")


def describe(
    y: Any, n: int, name: str = "y", kinds: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[tuple[Column, ...], Tensor]:
    """Describe the covariates of training data, and return their values.

    Texts, booleans and columns of a categorical type are categories, others are continuous, unless `kinds` says
    otherwise.

    Args:
        y: a data frame of n rows, or an array `[n, M]` of continuous columns.
        n: number of datapoints.
        name: name of y in messages.
        kinds: keyword arguments of `recognize` for columns by name.

    Returns:
        The columns, and y `[n, M]`, float32, which holds the indices of categories.

    Raises:
        BadInput: if y has another number of rows, or a column is constant, incomplete or not finite.
    """
    if is_frame(y):
        table = opened(y, name)
        read = [cells_of(table[column]) for column in table.columns]
    else:
        read = [Cells(f"{name}[:, {j}]", "float", cells) for j, cells in enumerate(_floats(y, name).T)]
    columns, values = [], []
    for cells in read:
        settings = {
            "kind": "categorical" if cells.categorical or cells.form in ("text", "boolean") else "real",
            **(kinds or {}).get(cells.name, {}),
        }
        if settings["kind"] == IGNORE:
            raise BadInput(f"column {cells.name} is a covariate, which kinds cannot ignore: leave it out of y")
        if len(cells.distinct) == 1:
            raise BadInput(f"column {cells.name} is constant, which makes no covariate: leave it out of y")
        column, _ = recognize(cells, **settings)
        columns.append(column)
        values.append(values_of(cells, column))
        require_resolution(values[-1], column)
    return tuple(columns), _stacked(values, columns, n, name).float()


def values_for(y: Any, columns: Sequence[Column], n: int, name: str = "y") -> Tensor:
    """Return the values of covariates for a model that is conditioned on `columns`: float64 `[n, M]`.

    Args:
        y: a data frame or a mapping with these columns, lists of their values, or an array `[n, M]` of numbers, which
            holds the indices of categories. A single row stands for all n datapoints.
        columns: of the model.
        n: number of datapoints.
        name: name of y in messages.

    Raises:
        BadInput: if a column is missing or unknown, a value is missing or does not fit its column, or the number of
            rows or columns differs.
    """
    names = [column.name for column in columns]
    if is_frame(y):
        table = opened(y, name)
        _require_names(table.columns, names, name)
        return _stacked([values_of(cells_of(table[column.name]), column) for column in columns], columns, n, name)
    if isinstance(y, Mapping):
        _require_names(list(y), names, name)
        return _stacked([_of_list(y[column.name], column) for column in columns], columns, n, name)
    if _holds_text(y):
        cells = zip(*_rows(y, names, name), strict=True)
        return _stacked([_of_list(*pair) for pair in zip(cells, columns, strict=True)], columns, n, name)
    values = _shaped(_floats(y, name), names, name)
    for numbers, column in zip(values.T, columns, strict=True):
        _require_indices(numbers, column, name)
    return _stacked(list(values.T), columns, n, name)


def split_off(x: Any, names: Sequence[str], name: str = "x") -> tuple[Any, Any]:
    """Return a data frame without the columns `names`, and one with these columns only.

    Raises:
        BadInput: if one of them is not a column, or no other column is left.
    """
    table, names = opened(x, name), list(dict.fromkeys(names))
    if unknown := [column for column in names if column not in table.columns]:
        raise BadInput(f"y names {shown(unknown[0])}, which is not a column of {name}: {_listed(table.columns)}")
    if len(table.columns) == len(names):
        raise BadInput(f"y names all columns of {name}: leave some to model")
    return table.drop(names).to_native(), table.select(names).to_native()


def in_x_or_apart(x: Any, y: Any, names: Sequence[str]) -> tuple[Any, Any]:
    """Return x without the covariates `names`, and y, if x is a data frame that has them.

    That is, if y is None or lists these names; otherwise x and y stay as they are.
    """
    if not names or not is_frame(x):
        return x, y
    asked = [y] if isinstance(y, str) else y
    in_x = isinstance(asked, (list, tuple)) and all(isinstance(each, str) for each in asked)
    if (in_x and sorted(asked) == sorted(names)) or (y is None and set(names) <= set(names_of(x))):
        return split_off(x, names)
    return x, y


def _stacked(values: Sequence[np.ndarray], columns: Sequence[Column], n: int, name: str) -> Tensor:
    """Return columns as a tensor float64 `[n, M]`, without missing values."""
    for cells, column in zip(values, columns, strict=True):
        if num_missing := int(np.isnan(cells).sum()):
            raise BadInput(
                f"column {column.name} of {name} lacks {num_missing} values, but covariates must be complete: drop "
                "these rows, or impute them; for conditioning=semi_supervised give labels 0, 1, 2, …, and -1 where "
                "they are missing"
            )
        if len(cells) not in (1, n):
            raise BadInput(f"{name} has {len(cells)} rows, but there are {n} datapoints")
    return torch.stack([torch.from_numpy(np.array(cells, float)).expand(n) for cells in values], 1)


def _floats(y: Any, name: str) -> np.ndarray:
    values = to_numpy(as_array(y, name))
    if values.dtype.kind not in "biuf":
        raise BadInput(f"{name} has dtype {values.dtype}: give numbers, or a data frame if columns have categories")
    if np.isinf(values).any():
        raise BadInput(f"{name} holds infinite values: replace them")
    return values.astype(np.float64)


def _shaped(values: np.ndarray, names: Sequence[str], name: str) -> np.ndarray:
    """Return an array of numbers as rows `[k, M]`."""
    rows = values.reshape(-1, 1) if len(names) == 1 and values.ndim < 2 else np.atleast_2d(values)
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise BadInput(
            f"{name} has shape {list(values.shape)}: this VAE needs [N, {len(names)}], with columns {_listed(names)}"
        )
    return rows


def _holds_text(y: Any) -> bool:
    """Whether y is a text, or a list or a list of lists with a text."""
    return isinstance(y, str) or (isinstance(y, (list, tuple)) and any(map(_holds_text, y)))


def _rows(y: Any, names: Sequence[str], name: str) -> list[list[Any]]:
    """Return a text, or lists with texts, as rows of M cells."""
    cells: list[Any] = [y] if isinstance(y, str) else list(y)
    if not all(isinstance(row, (list, tuple)) for row in cells):
        cells = [[cell] for cell in cells] if len(names) == 1 else [cells]
    if wrong := next((row for row in cells if len(row) != len(names)), None):
        raise BadInput(
            f"{name} has a row of {len(wrong)} values, {shown(wrong)}: this VAE needs {len(names)}, {_listed(names)}"
        )
    return cells


def _of_list(cells: Any, column: Column) -> np.ndarray:
    """Return a column's values, float64 `[k]`, for one cell or a list or array of them."""
    objects = np.array(to_numpy(cells) if isinstance(cells, Tensor) else cells, dtype=object).reshape(-1).tolist()
    plain = [cell.item() if isinstance(cell, np.generic) else cell for cell in objects]
    return values_of(cells_from(plain, column.name), column)


def _require_names(given: Sequence[str], names: Sequence[str], name: str) -> None:
    if missing := [column for column in names if column not in given]:
        raise BadInput(f"{name} lacks the column {missing[0]}: this VAE needs the columns {_listed(names)}")
    if unknown := [column for column in given if column not in names]:
        raise BadInput(f"{name} has a column {shown(unknown[0])}: this VAE needs only {_listed(names)}")


def _require_indices(values: np.ndarray, column: Column, name: str) -> None:
    """Check that numbers given for a column of categories are indices."""
    if column.kind in OF_CATEGORIES:
        known = len(column.categories)
        bad = values[~np.isnan(values) & ~np.isin(values, np.arange(known))]
        if len(bad):
            raise BadInput(
                f"{name} holds {bad[0]:g} in column {column.name}, whose categories have the indices 0 to {known - 1}: "
                + _listed([written(category) for category in column.categories])
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
