"""Data frames of pandas, polars and others as tensors `[N, P]`, and back, through narwhals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timezone
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.cells import MS_A_DAY, Cells, cells_of
from pyro_vae.data.schema import OF_CATEGORIES, Column, duplicate, modelled
from pyro_vae.errors import BadInput, one_of, shown

LIBRARIES = ("pandas", "polars", "pyarrow", "modin", "cudf")
INSTALL = "pip install 'pyro-vae[table]'"
RESOLUTION = 0.01
"""Largest rounding error of float32 in a column, relative to its standard deviation."""


def is_frame(x: Any) -> bool:
    """Whether x is a data frame."""
    return _library(x) in LIBRARIES and hasattr(x, "columns")


def _library(frame: Any) -> str:
    return type(frame).__module__.partition(".")[0]


def names_of(frame: Any) -> list[Any]:
    """Return the names of the columns of a data frame."""
    return list(frame.column_names if _library(frame) == "pyarrow" else frame.columns)


def selected(frame: Any, names: Sequence[str]) -> Any:
    """Return a data frame with some of its columns, in this order."""
    return frame.select(list(names)) if _library(frame) in ("pyarrow", "polars") else frame[list(names)]


def not_numbers(frame: Any) -> list[str]:
    """Return the names of the columns of a data frame that do not hold numbers, at most three of them."""
    names = (str(name) for name in names_of(frame) if np.asarray(frame[name]).dtype.kind not in "biuf")
    return list(islice(names, 3))


def opened(frame: Any, name: str) -> Any:
    """Return a data frame as that of narwhals.

    Raises:
        BadInput: if narwhals is missing, the frame is lazy, has no rows, or its columns have no distinct names.
    """
    try:
        import narwhals.stable.v2 as nw
    except ImportError as error:
        raise BadInput(f"{name} is a data frame, which needs narwhals: {INSTALL}") from error
    columns = list(frame.columns) if _library(frame) in ("pandas", "modin", "cudf") else []
    if others := [column for column in columns if not isinstance(column, str)]:
        raise BadInput(f"{name} names a column {shown(others[0])}: names must be text, df.columns.astype(str)")
    require_names(columns, name)
    try:
        opened = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise BadInput(
            f"{name} has type {type(frame).__name__}: give a data frame in memory, as .collect() does"
        ) from error
    require_names(opened.columns, name)
    if not len(opened):
        raise BadInput(f"{name} has no rows")
    return opened


def require_names(columns: Sequence[str], name: str) -> None:
    """Check the names of columns.

    Raises:
        BadInput: if one is empty, too long or occurs twice.
    """
    if twice := duplicate(columns):
        raise BadInput(f"{name} has two columns named {shown(twice)}: rename one")
    for i, column in enumerate(columns):
        if not column.strip():
            raise BadInput(f"column {i + 1} of {name} has no name: name it, or drop it (pandas writes its index so)")
        if "${" in column or column == "???" or len(column) > 1000:
            raise BadInput(f"{name} has a column {shown(column)!r}, which a configuration cannot keep: rename it")


def values_of(
    cells: Cells,
    column: Column,
    remedy: str = "set another kind, other bounds or categories in data.kinds, or correct it",
) -> np.ndarray:
    """Return the values that x holds for a column, float64 `[N]`, NaN where missing.

    Args:
        cells: the cells.
        column: the column.
        remedy: advice for a value that does not fit.

    Raises:
        BadInput: if a value does not fit the column.
    """
    if column.kind in OF_CATEGORIES:
        return cells.codes(column.categories, remedy)
    values = cells.numbers()
    present = values[~np.isnan(values)]
    bad, wanted = present[:0], ""
    if column.kind == "positive":
        bad, wanted = present[present <= 0], "positive values"
    elif column.kind == "count":
        bad, wanted = present[(present < 0) | (present != present.round())], "counts 0, 1, 2, …"
    elif column.bounds is not None:
        low, high = column.bounds
        bad = present[(present <= low) | (present >= high)]
        wanted = f"values strictly between {low:g} and {high:g}"
    if len(bad):
        raise BadInput(f"column {column.name} is {column.kind} and needs {wanted}, but holds {bad[0]:.6g}: {remedy}")
    return values


def require_resolution(values: np.ndarray, column: Column) -> None:
    """Check that single precision resolves how the training data `[N]` of a column vary.

    Raises:
        BadInput: otherwise.
    """
    present = values[~np.isnan(values)]
    if column.kind in OF_CATEGORIES or not len(present) or present.min() == present.max():
        return
    sd = present.std()
    if np.abs(present.astype(np.float32) - present).max() > RESOLUTION * sd:
        raise BadInput(
            f"column {column.name} varies by {sd:.3g} around {present.mean():.6g}, too little for single precision: "
            "subtract a number from it, or leave it out"
        )


def to_x(frame: Any, columns: Sequence[Column], name: str = "x") -> Tensor:
    """Return x `[N, P]`, float32, of a data frame with the columns of a schema.

    For what needs a tensor, as `vae.q_z`, `vae.p_x(z)` and `vae.likelihood.marginals` do; methods of a VAE such as
    `encode` accept the data frame.

    Args:
        frame: the data frame.
        columns: the schema, as in `vae.likelihood.columns`.
        name: name of the data frame in messages.

    Raises:
        BadInput: if a column is missing or unknown, or holds values that do not fit it.

    Example:
        >>> import pandas as pd
        >>> from pyro_vae.data.schema import Column
        >>> to_x(pd.DataFrame({"sex": ["male", None]}), [Column("sex", "binary", "text", ("female", "male"))])
        tensor([[1.],
                [nan]])
    """
    table = opened(frame, name)
    known = [column.name for column in columns]
    if missing := [column.name for column in modelled(columns) if column.name not in table.columns]:
        raise BadInput(f"{name} lacks the column {missing[0]}: the model has columns {_listed(modelled(columns))}")
    if unknown := [other for other in table.columns if other not in known]:
        raise BadInput(f"{name} has a column {shown(unknown[0])}, which the training data did not have: drop it")
    remedy = "correct it, or leave the cell empty"
    return stacked([values_of(cells_of(table[column.name]), column, remedy) for column in modelled(columns)])


def stacked(values: Sequence[np.ndarray]) -> Tensor:
    """Return columns `[N]` as x `[N, P]`, float32."""
    return torch.from_numpy(np.stack(values, 1).astype(np.float32))


def to_frame(x: Tensor, columns: Sequence[Column], library: Any) -> Any:
    """Return x `[N, P]` as a data frame of a library, with the user's names, categories and types.

    Args:
        x: the values; NaN becomes a missing value.
        columns: the schema.
        library: `pandas`, `polars`, `pyarrow`, `modin` or `cudf`.

    Raises:
        BadInput: if the library is unknown or missing, or there are no columns.
    """
    one_of("as_frame", library, LIBRARIES)
    if not columns:
        raise BadInput(f"as_frame={library} needs data whose columns have names: leave it out")
    try:
        import narwhals.stable.v2 as nw

        return nw.from_dict(_content(x, columns), backend=library).to_native()
    except ImportError as error:
        raise BadInput(f"as_frame={library} needs {library} and narwhals: {INSTALL}") from error


def filled(frame: Any, x: Tensor, observed: Tensor, columns: Sequence[Column]) -> Any:
    """Return a copy of a data frame, with cells from x `[N, P]` where they are not `observed` `[N, P]`."""
    import narwhals.stable.v2 as nw

    table = nw.from_native(frame, eager_only=True)
    content, series = _content(x, columns), []
    for column, missing in zip(modelled(columns), (~observed).T.tolist(), strict=True):
        if any(missing):
            old = table[column.name]
            known = old.to_list()
            new = _like_cells(content[column.name], old, known)
            cells = [mine if hole else cell for cell, mine, hole in zip(known, new, missing, strict=True)]
            filled = nw.new_series(column.name, _of_one_type(cells), backend=table.implementation)
            series.append(_as_before(filled, old, column) if old.null_count() < len(old) else filled)
    return table.with_columns(*series).to_native()


def _like_cells(new: list[Any], old: Any, known: list[Any]) -> list[Any]:
    """Return new cells as the types of those known in a column: dates without times, time zones, categories."""
    import narwhals.stable.v2 as nw

    if old.dtype == nw.Date or any(type(cell) is date for cell in known):
        return [cell.date() for cell in new]
    if isinstance(old.dtype, nw.Datetime) and old.dtype.time_zone is not None:
        return [cell.replace(tzinfo=timezone.utc) for cell in new]
    if isinstance(old.dtype, nw.Enum) or old.dtype == nw.Categorical:  # which may be intervals
        own = {str(category): category for category in _categories_of(old)}
        return [own.get(str(cell), cell) for cell in new]
    return new


def _as_before(filled: Any, old: Any, column: Column) -> Any:
    """Return a column with the type it had, unless that cannot hold what was filled in."""
    import narwhals.stable.v2 as nw

    if isinstance(old.dtype, nw.Enum):
        known = _categories_of(old)
        if new := set(filled.drop_nulls().to_list()) - set(known):  # the model knows more categories
            every: list[Any] = [*known, *(category for category in column.categories if category in new)]
            return filled.cast(nw.Enum(every))
    elif old.implementation.is_pandas_like() and old.dtype != nw.Categorical:
        own = old.to_native().dtype
        if not isinstance(own, np.dtype):  # nullable, or with a time zone
            with suppress(TypeError, ValueError):
                return nw.from_native(filled.to_native().astype(own), series_only=True)
            return filled
    if not (old.dtype == nw.Object or (old.dtype.is_integer() and filled.dtype.is_float())):
        with suppress(TypeError, ValueError, NotImplementedError):  # of types that narwhals does not convert
            return filled.cast(old.dtype)
    return filled


def _categories_of(series: Any) -> list[Any]:
    """Return the categories that a column's type defines; [] if narwhals does not know them."""
    try:
        return list(series.cat.get_categories().to_list())
    except (AttributeError, TypeError, NotImplementedError):  # Arrow's dictionaries in pandas
        return []


def _content(x: Tensor, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Return the cells of each column, None where x is NaN."""
    return {
        column.name: _of_one_type([None if np.isnan(value) else _cell(value, column) for value in values])
        for column, values in zip(modelled(columns), x.double().cpu().numpy().T, strict=True)
    }


def _cell(value: float, column: Column) -> Any:
    if column.kind in OF_CATEGORIES:  # means of binary columns are probabilities
        return column.categories[min(max(round(value), 0), len(column.categories) - 1)]
    if column.form == "date":
        return np.datetime64(round(value * MS_A_DAY), "ms").item()
    return round(value) if column.kind == "count" and float(value).is_integer() else float(value)


def _of_one_type(cells: list[Any]) -> list[Any]:
    """Return integers as floats if there are floats, too, such as the means of counts."""
    if any(isinstance(cell, float) for cell in cells):
        return [cell if cell is None else float(cell) for cell in cells]
    return cells


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns[:10]) + (", …" if len(columns) > 10 else "")
