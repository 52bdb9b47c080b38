"""The cells of one column of a data frame, as numbers or texts."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from pyro_vae.data.schema import Category, written
from pyro_vae.errors import BadInput, shown

MS_A_DAY = 86_400_000
EPOCH = datetime.date(1970, 1, 1)
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}([ T].*)?")
"""Texts that are dates, as in 2024-01-31, 31.1.2024 and 1/31/2024."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a column.

    Attributes:
        name: name of the column.
        form: one of `schema.FORMS`.
        values: float64 `[N]`, NaN where missing, or texts `[N]`, None where missing.
        order: categories in the order that the data frame defines, or ().
        categorical: whether the data frame calls them categories.
    """

    name: str
    form: str
    values: np.ndarray
    order: tuple[Category, ...] = ()
    categorical: bool = False

    @cached_property
    def missing(self) -> np.ndarray:
        """Where there is no value, `[N]`."""
        if self.form == "text":
            return np.array([value is None for value in self.values], dtype=bool)
        return np.isnan(self.values)

    @cached_property
    def present(self) -> np.ndarray:
        """The values that are not missing."""
        return self.values[~self.missing]

    @cached_property
    def distinct(self) -> list[Any]:
        """The distinct values, sorted."""
        return sorted(set(self.present.tolist()))

    @property
    def is_date(self) -> bool:
        """Whether all values are dates."""
        if self.form == "text":
            return bool(self.distinct) and all(DATE.fullmatch(text) for text in self.distinct)
        return self.form == "date"

    def categories(self) -> list[Category]:
        """Return the distinct values as the column's own Python type."""
        return [as_category(value, self.form) for value in self.distinct]

    def numbers(self) -> np.ndarray:
        """Return the values as numbers, float64 `[N]`.

        Raises:
            BadInput: if they are texts.
        """
        if self.form == "text" and self.distinct:
            remedy = f": convert it, as in pd.to_datetime(df[{self.name!r}])" if self.is_date else ""
            raise BadInput(f"column {self.name} holds text ({shown(self.distinct[0])!r}), but needs numbers{remedy}")
        return np.full(len(self.values), np.nan) if self.form == "text" else self.values

    def codes(self, categories: tuple[Category, ...], remedy: str) -> np.ndarray:
        """Return the index of each value among the categories, float64 `[N]`, NaN where missing.

        Raises:
            BadInput: at a value that is not one of them, with the remedy.
        """
        index = {written(category): i for i, category in enumerate(categories)}
        of_value = {}
        for value in self.distinct:
            texts = [written(as_category(value, self.form))]
            if self.categorical and self.form != "text":  # as earlier versions wrote them
                texts += [str(float(value)), str(bool(value))]
            text = next((text for text in texts if text in index), texts[0])
            if text not in index:
                known = ", ".join(list(index)[:8]) + (", …" if len(index) > 8 else "")
                rows = int((self.present == value).sum())
                raise BadInput(
                    f"column {self.name} holds {shown(text)!r}, which is not one of its categories {known} "
                    f"({rows} row{'s' * (rows > 1)}): {remedy}"
                )
            of_value[value] = float(index[text])
        codes = np.full(len(self.values), np.nan)
        codes[~self.missing] = [of_value[value] for value in self.present.tolist()]
        return codes


def as_category(value: Any, form: str) -> Category:
    """Return a value of `Cells` as the Python type of its form."""
    if form == "text":
        return str(value)
    if form == "boolean":
        return bool(value)
    return int(value) if float(value).is_integer() else float(value)


def cells_of(series: Any) -> Cells:
    """Read a column of a narwhals data frame.

    Raises:
        BadInput: if it mixes texts and numbers, holds infinite numbers, or its type is not supported.
    """
    import narwhals.stable.v2 as nw

    dtype, name = series.dtype, series.name
    if series.null_count() == len(series):
        return Cells(name, "float", np.full(len(series), np.nan))
    if dtype == nw.Object:
        return cells_from(series.to_list(), name)
    if isinstance(dtype, nw.Enum) or dtype == nw.Categorical:
        return _categories(series, has_order=isinstance(dtype, nw.Enum))
    if dtype == nw.String:
        return _texts(series.to_list(), name)
    if dtype in (nw.Date, nw.Datetime):
        if dtype == nw.Date:
            series = series.cast(nw.Datetime("ms"))
        stamps = _with_none(series.dt.timestamp("ms").to_list())
        return Cells(name, "date", np.array([np.nan if t is None else t / MS_A_DAY for t in stamps], float))
    if dtype == nw.Boolean:
        return cells_from(series.to_list(), name)
    if dtype.is_numeric():
        return _numbers(series.cast(nw.Float64).to_numpy(), name, "integer" if dtype.is_integer() else "float")
    own = dtype if dtype != nw.Unknown else series.to_native().dtype
    raise BadInput(f"column {name} has type {own}, which is not supported: drop it or convert it")


def _with_none(values: list[Any]) -> list[Any]:
    """Replace missing values of pandas, NaN, NaT and NA, by None: none of them equals itself."""
    return [value if str(value == value) == "True" else None for value in values]


def _texts(values: list[Any], name: str) -> Cells:
    texts = np.empty(len(values), dtype=object)
    texts[:] = _with_none(values)
    return Cells(name, "text", texts)


def _categories(series: Any, has_order: bool) -> Cells:
    """Read a column of a categorical type, as numbers if all its categories are, else as texts."""
    values, order = _with_none(series.to_list()), series.cat.get_categories().to_list() if has_order else []
    if not all(isinstance(value, (Real, np.bool_, type(None))) for value in (*values, *order)):
        values = [None if value is None else str(value) for value in values]
    cells = cells_from(values, series.name)
    as_read = tuple(str(c) if cells.form == "text" else as_category(c, cells.form) for c in order)
    return replace(cells, order=as_read, categorical=True)


def _days(date: datetime.date) -> float:
    """Return the days since 1970-01-01, UTC."""
    if not isinstance(date, datetime.datetime):
        return float(date.toordinal() - EPOCH.toordinal())
    aware = date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)
    return aware.timestamp() * 1000 / MS_A_DAY


def _numbers(values: Any, name: str, form: str) -> Cells:
    numbers = np.array(values, dtype=float)
    if np.isinf(numbers).any():
        raise BadInput(f"column {name} holds infinite values: replace them, or leave the cells empty")
    present = numbers[~np.isnan(numbers)]
    if form == "float" and len(present) and (present == present.round()).all() and (abs(present) < 2**53).all():
        form = "integer"  # pandas keeps integers with holes as floats
    return Cells(name, form, numbers)


def cells_from(values: list[Any], name: str) -> Cells:
    """Read a list of Python objects, as pandas keeps booleans with holes and mixed columns.

    Raises:
        BadInput: if they are of several types, of an unsupported one, or infinite.
    """
    cleaned = _with_none(values)
    kinds = {type(value) for value in cleaned if value is not None}
    if kinds <= {bool, np.bool_}:
        return _numbers([np.nan if value is None else float(value) for value in cleaned], name, "boolean")
    if all(issubclass(kind, str) for kind in kinds):
        return _texts(cleaned, name)
    if all(issubclass(kind, (datetime.date, datetime.datetime)) for kind in kinds):
        return Cells(name, "date", np.array([np.nan if value is None else _days(value) for value in cleaned]))
    try:
        return _numbers([np.nan if value is None else float(value) for value in cleaned], name, "float")
    except (TypeError, ValueError):
        examples = [shown(repr(next(v for v in cleaned if type(v) is kind))) for kind in list(kinds)[:2]]
        if len(examples) == 1:
            raise BadInput(f"column {name} holds {examples[0]}: convert it to numbers or text, or drop it") from None
        raise BadInput(f"column {name} mixes types, such as {' and '.join(examples)}: give it one type") from None
