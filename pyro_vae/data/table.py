"""Data sets of tables with columns of different kinds, from files or data frames."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyro_vae.data.cells import cells_of
from pyro_vae.data.covariates import in_x_or_apart
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.files import given_by
from pyro_vae.data.frames import is_frame, names_of, opened, require_resolution, stacked, to_x, values_of
from pyro_vae.data.recognize import recognize, settings_of
from pyro_vae.data.schema import IGNORE, Column, of_plain, plain
from pyro_vae.data.sources import source_of
from pyro_vae.data.split import Split, three_way_split
from pyro_vae.data.text_tables import numbers_of, read_table
from pyro_vae.data.y import given_y, y_like
from pyro_vae.errors import BadInput, in_callers_names, shown

log = logging.getLogger(__name__)

MAX_COLUMNS = 1000


def table(
    path: str | None,
    separator: str | None = None,
    y: Any = None,
    val_path: str | None = None,
    test_path: str | None = None,
    **kwargs: Any,
) -> Dataset:
    """Load a table from a CSV or Parquet file.

    Args:
        path: the file.
        separator: character between the cells of a CSV file; None: a tab in .tsv files, otherwise a comma.
        y: name or names of columns that are covariates: the model is conditioned on them, and x are the other columns.
        val_path: file with the validation data, instead of a share of the rows.
        test_path: file with the test data, likewise.
        **kwargs: as for `from_frame`.

    Raises:
        BadInput: if the file is missing or cannot be read, or `from_frame` rejects the table.
    """
    if path is None:
        raise BadInput(
            "path is missing: give path=FILE.csv or path=FILE.parquet "
            "(or, for a run that fit() trained on a data frame, use vae.log_prob)"
        )
    settings, covariates = _settings(kwargs.get("kinds")), _names(y)
    known = of_plain(kwargs.get("columns") or [])
    kinds = {name: asked["kind"] for name, asked in settings.items()} | {column.name: column.kind for column in known}
    numbers = {*numbers_of(known), *(covariates or ())}  # covariates with leading zeros are numbers
    for name, asked in settings.items():
        if all(isinstance(category, (int, float)) for category in asked.get("categories") or ["text"]):
            numbers.add(name)
    frame, others = read_table(str(path), kinds, separator, numbers), []
    numbers |= {name for name in frame.columns if frame[name].dtype.is_numeric()}
    for file, option in ((val_path, "val_path"), (test_path, "test_path")):
        with given_by(option):
            others.append(None if file is None else (read_table(str(file), kinds, separator, numbers), None))
    return from_frame(
        frame, name=f"path={path}", y=covariates, validation=others[0], test=others[1],
        val_name=f"val_path={val_path}", test_name=f"test_path={test_path}", **kwargs
    )  # fmt: skip


def from_frame(
    frame: Any,
    kinds: Mapping[str, Any] | None = None,
    columns: Any = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    max_held_out: int | None = 10_000,
    name: str = "x",
    y: Any = None,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    val_name: str = "validation_data",
    test_name: str = "test",
    classes: Sequence[str] = (),
) -> Dataset:
    """Make a data set of a data frame: x `[N, P]` holds numbers, and indices of categories; NaN is missing.

    Args:
        frame: the data frame, of pandas, polars or another library that narwhals supports.
        kinds: for some columns by name a kind, a list of ordered categories, or a mapping with `kind`, `categories`,
            `bounds` or `family`; the others are recognized (`recognize`).
        columns: the columns as a checkpoint keeps them, for data of the same table; None: recognize them.
        val_fraction: share of the rows for validation.
        test_fraction: share of the rows for testing.
        split_seed: seed of the random split.
        max_held_out: maximum number of rows for validation, and for testing.
        name: name of the table in messages.
        y: labels `[N]`, names or integers from 0 on; the splits are stratified by them. Or covariates: names of columns
            of the frame, another data frame, or an array `[N, M]` of numbers. Columns of texts and booleans are
            categorical, others are real, unless `kinds` says otherwise.
        validation: validation data and their labels or None, instead of a share of the rows.
        test: test data and their labels or None, instead of a share of the rows.
        val_name: name of the validation data in messages.
        test_name: name of the test data in messages.
        classes: names of the classes of y, if they have any.

    Raises:
        BadInput: if a column cannot be used, or there are too few rows.
    """
    settings = _settings(kinds)
    frame, y, names, *_ = source_of(frame, y, name)
    of_y = {column: settings.pop(column) for column in list(settings) if is_frame(y) and column in names_of(y)}
    if columns is not None:
        described = of_plain(columns)
        x = to_x(frame, described, name)
    else:
        described, x = _recognized(opened(frame, name), settings, name)
    labels, covariates = (None, ()) if y is None else given_y(y, len(x), "y", of_y)
    shares = (val_fraction if validation is None else 0.0, test_fraction if test is None else 0.0)
    train, val, held_out = three_way_split(x, labels, *shares, split_seed, max_held_out)

    def apart(data: tuple[Any, Any], name: str) -> Split:
        other, other_y = in_x_or_apart(*data, [column.name for column in covariates])
        rows = to_x(other, described, name)
        return Split(rows, y_like(other_y, covariates, len(rows), labels is not None, name, tuple(names or classes)))

    val = val if validation is None else apart(validation, val_name)
    held_out = held_out if test is None else apart(test, test_name)
    missing = any(bool(split.x.isnan().any()) for split in (train, val, held_out))
    return Dataset(
        train, val, held_out, missing=missing, columns=plain(described), classes=names or classes,
        covariates=plain(covariates), apart=validation is not None and test is not None,
    )  # fmt: skip


def _names(y: Any) -> list[str] | None:
    """Return names of columns from a configuration, as a list."""
    if y is None:
        return None
    names = [y] if isinstance(y, str) else y
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, (str, int, float)) for name in names):
        raise BadInput(f"y={shown(y)} must name columns, as in y=[age,sex]")
    return [str(name) for name in names]


def _settings(kinds: Any) -> dict[str, dict[str, Any]]:
    """Return what `kinds` sets for columns by name."""
    if kinds is not None and not isinstance(kinds, Mapping):
        raise BadInput(f"kinds={shown(kinds)} must give a kind for columns by name, as in kinds={{age: count}}")
    return {str(name): settings_of(str(name), asked) for name, asked in (kinds or {}).items()}


def _recognized(frame: Any, kinds: Mapping[str, dict[str, Any]], name: str) -> tuple[tuple[Column, ...], Tensor]:
    """Return the columns of a table, and x `[N, P]`; tell which columns are left out."""
    if len(frame) < 2:
        raise BadInput(f"{name} has 1 row: give more, for training, validation and test")
    if len(frame.columns) > MAX_COLUMNS:
        raise BadInput(
            f"{name} has {len(frame.columns)} columns, more than {MAX_COLUMNS}: leave some out or, if all are numbers, "
            "use data=array, in fit likelihood='gaussian'"
        )
    if unknown := [column for column in kinds if column not in frame.columns]:
        raise BadInput(
            f"kinds names {shown(unknown[0])}, which is not a column of {name}: {', '.join(frame.columns[:20])}"
        )
    columns, values, left_out = [], [], []
    for column in frame.columns:
        settings = kinds.get(column, {})
        if settings.get("kind") == IGNORE:
            columns.append(Column(column, IGNORE))
            continue
        cells = cells_of(frame[column])
        described, reason = recognize(cells, **settings)
        columns.append(described)
        if reason is not None:
            left_out.append(f"{column} ({reason})")
        elif described.kind != IGNORE:
            values.append(values_of(cells, described))
            require_resolution(values[-1], described)
    if not values:
        raise BadInput(f"{name} has no column to model: {', '.join(left_out) or 'all are ignored'}")
    if left_out:
        reasons = ", ".join(left_out)
        log.warning(in_callers_names(f"columns that are left out: {reasons}; data.kinds={{NAME: KIND}} keeps one"))
    return tuple(columns), stacked(values)
