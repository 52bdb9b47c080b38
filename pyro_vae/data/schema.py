"""The columns of a table as plain data: names, kinds, categories and bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyro_vae.errors import BadInput, one_of, shown

KINDS = ("real", "positive", "bounded", "count", "binary", "categorical", "ordinal")
IGNORE = "ignore"
OF_CATEGORIES = ("binary", "categorical", "ordinal")
FAMILIES = ("poisson", "negative_binomial")
FORMS = ("float", "integer", "boolean", "text", "date")
"""How a user's table holds a column."""

Category = str | int | float | bool


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        kind: one of `KINDS`, or `ignore`.
        form: one of `FORMS`; dates are numbers of days since 1970-01-01.
        categories: of a binary, categorical or ordinal column; x holds their index.
        bounds: of a bounded column.
        family: of a count: `poisson` or `negative_binomial`.
    """

    name: str
    kind: str
    form: str = "float"
    categories: tuple[Category, ...] = ()
    bounds: tuple[float, float] | None = None
    family: str | None = None

    def as_plain(self) -> dict[str, Any]:
        """Return the attributes that are set, for configurations and checkpoints."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in plain.items() if value not in (None, [])}

    @classmethod
    def of_plain(cls, plain: Any) -> Column:
        """Return the column of `as_plain`, which may come from a file.

        Raises:
            BadInput: if it does not describe a column.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(plain, Mapping) or not isinstance(plain.get("name"), str) or not plain.keys() <= known:
            raise BadInput(f"columns holds {shown(plain)}, which is not a column: give its name and kind")
        name = plain["name"]
        kind = one_of(f"the kind of column {name}", plain.get("kind"), (*KINDS, IGNORE))
        form = one_of(f"the form of column {name}", plain.get("form", "float"), FORMS)
        categories = require_categories(name, plain.get("categories", ())) if kind in OF_CATEGORIES else ()
        bounds = require_bounds(name, plain.get("bounds")) if kind == "bounded" else None
        family = one_of(f"the family of column {name}", plain.get("family"), FAMILIES) if kind == "count" else None
        return cls(name, kind, form, categories, bounds, family)


def of_plain(columns: Any) -> tuple[Column, ...]:
    """Return the columns of a list of `Column.as_plain`.

    Raises:
        BadInput: if it is not such a list, or a name occurs twice.
    """
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        raise BadInput(f"columns={shown(columns)} must be a list of columns with name and kind")
    result = tuple(map(Column.of_plain, columns))
    if twice := duplicate([column.name for column in result]):
        raise BadInput(f"columns names {twice} twice")
    return result


def modelled(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns that x `[N, P]` holds: all but the ignored ones."""
    return tuple(column for column in columns if column.kind != IGNORE)


def plain(columns: Sequence[Column]) -> list[dict[str, Any]] | None:
    """Return columns as plain data, for configurations and checkpoints; None if there are none."""
    return [column.as_plain() for column in columns] or None


def described(columns: Sequence[Column]) -> str:
    """Return the names and kinds of the modelled columns, and a hint about integers that may be codes."""
    kinds = ", ".join(f"{column.name} {column.kind}" for column in modelled(columns))
    counts = [column.name for column in columns if column.kind == "count"]
    hint = f" (if {counts[0]} holds codes, not counts, call it categorical in data.kinds)" if counts else ""
    return f"columns: {kinds}{hint}"


def duplicate(names: Sequence[str]) -> str | None:
    """Return the first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_categories(name: str, categories: Any) -> tuple[Category, ...]:
    """Return categories given for a column.

    Raises:
        BadInput: if they are not a list of distinct names or numbers.
    """
    is_list = isinstance(categories, Sequence) and not isinstance(categories, str)
    if not is_list or not categories or not all(isinstance(value, (str, int, float)) for value in categories):
        raise BadInput(f"column {name}: categories={shown(categories)} must be a list of names or numbers")
    if twice := duplicate([written(value) for value in categories]):
        raise BadInput(f"column {name}: categories names {twice} twice")
    return tuple(categories)


def require_bounds(name: str, bounds: Any) -> tuple[float, float]:
    """Return bounds given for a column.

    Raises:
        BadInput: if they are not two numbers in order.
    """
    is_pair = isinstance(bounds, Sequence) and not isinstance(bounds, str) and len(bounds) == 2
    if not is_pair or not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in bounds):
        raise BadInput(f"column {name}: bounds={shown(bounds)} must be two numbers, as in [0,100]")
    low, high = map(float, bounds)
    if not low < high:
        raise BadInput(f"column {name}: bounds={shown(bounds)} must be in increasing order")
    return low, high


def written(value: Category) -> str:
    """Write a category as a file does: `true`, `3` (also for 3.0), `0.5` or a name."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, (int, float)) and abs(value) < 1e15 else str(value)
