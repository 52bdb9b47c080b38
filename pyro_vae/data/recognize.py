"""Recognizes the kinds of a table's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_vae.data.cells import Cells
from pyro_vae.data.schema import FAMILIES, IGNORE, KINDS, OF_CATEGORIES, Column, require_bounds, require_categories
from pyro_vae.errors import BadInput, one_of, shown

MAX_CATEGORIES = 1000
FEW = 10
"""Integers that do not start near 0 are ordinal if so few are distinct."""
SETTINGS = ("kind", "categories", "bounds", "family")


def recognize(
    cells: Cells, kind: str | None = None, categories: Any = None, bounds: Any = None, family: str = "auto"
) -> tuple[Column, str | None]:
    """Describe a column, and say why it is left out if it is.

    - Texts are `categorical`, `binary` if there are two, and `ordinal` in a data frame that orders them.
    - Numbers of two values, and booleans, are `binary`.
    - Integers from about 0 on are a `count`; other integers of few values are `ordinal`.
    - Other numbers are `positive`, `bounded` by 0 and 1, or `real`: the likeliest of a log-normal, a beta and a normal
      distribution with the moments of the column.
    - Constant and empty columns, dates, texts that hardly repeat and integers that never do are left out.

    Args:
        cells: the column.
        kind: one of `KINDS`; None: recognize it.
        categories: of a binary, categorical or ordinal column; None: its distinct values.
        bounds: of a bounded column; None: 0 and 1.
        family: of a count: `poisson`, `negative_binomial`, or `auto`, by its dispersion.

    Raises:
        BadInput: if a setting does not fit the column.
    """
    name, reason = cells.name, None
    if kind is None:
        kind, reason = _guess(cells)
    if kind in OF_CATEGORIES:
        return Column(name, kind, cells.form, _categories(cells, kind, categories)), reason
    if kind == "bounded":
        return Column(name, kind, cells.form, bounds=require_bounds(name, bounds or [0.0, 1.0])), reason
    if kind == "count":
        one_of(f"the family of column {name}", family, (*FAMILIES, "auto"))
        by_dispersion = _family(cells.numbers()[~cells.missing])
        return Column(name, kind, cells.form, family=by_dispersion if family == "auto" else family), reason
    return Column(name, kind, cells.form), reason


def settings_of(name: str, asked: Any) -> dict[str, Any]:
    """Return what the user asks of a column as keyword arguments of `recognize`.

    Args:
        name: name of the column.
        asked: a kind, a list of ordered categories, or a mapping of `SETTINGS`.

    Raises:
        BadInput: if it is none of these.
    """
    if isinstance(asked, str):
        asked = {"kind": asked}
    elif isinstance(asked, Sequence):
        asked = {"kind": "ordinal", "categories": asked}
    if not isinstance(asked, Mapping) or not set(asked) <= set(SETTINGS) or "kind" not in asked:
        raise BadInput(
            f"column {name}: {shown(asked)} must be a kind, one of {', '.join((*KINDS, IGNORE))}, a list of ordered "
            "categories, or {kind: KIND} with categories, bounds or family"
        )
    one_of(f"the kind of column {name}", asked["kind"], (*KINDS, IGNORE))
    return dict(asked)


def _guess(cells: Cells) -> tuple[str, str | None]:
    """Return a kind, and the reason if it is `ignore`."""
    n, distinct = len(cells.present), cells.distinct
    if len(distinct) < 2:
        return IGNORE, "constant" if distinct else "empty"
    if cells.is_date:
        return IGNORE, "dates"
    if len(distinct) == 2 and len(cells.order) <= 2:  # a third category may occur in new rows
        return "binary", None
    if cells.order:
        return "ordinal", None
    if cells.form in ("text", "integer") and len(distinct) == n:
        return IGNORE, "an identifier: all its values differ"
    if cells.form == "text" or cells.categorical:
        if len(distinct) > min(MAX_CATEGORIES, max(20, n // 2)):
            return IGNORE, f"free text: {len(distinct)} distinct values"
        return "categorical", None
    if cells.form == "integer":
        if 0 <= distinct[0] <= cells.present.mean() / 10:
            return "count", None
        if len(distinct) <= FEW:
            return "ordinal", None
    return _likeliest(cells.present), None


def _likeliest(x: np.ndarray) -> str:
    """Return the kind of numbers x `[N]` under which they have the highest likelihood."""
    scores = {"real": _normal(x)}
    if x.min() > 0:
        scores["positive"] = _normal(np.log(x)) - np.log(x).mean()
        if x.max() < 1:
            mean, variance = x.mean(), x.var()
            total = mean * (1 - mean) / variance - 1
            scores["bounded"] = _beta(x, mean * total, (1 - mean) * total)
    return max(scores, key=lambda kind: scores[kind])


def _normal(x: np.ndarray) -> float:
    return float(-0.5 * np.log(2 * np.pi * np.e * x.var()))


def _beta(x: np.ndarray, a: float, b: float) -> float:
    from math import lgamma

    return float(((a - 1) * np.log(x) + (b - 1) * np.log1p(-x)).mean() + lgamma(a + b) - lgamma(a) - lgamma(b))


def _categories(cells: Cells, kind: str, given: Any) -> tuple[Any, ...]:
    if given is not None:
        categories = require_categories(cells.name, given)
    elif cells.order:
        categories = cells.order
    elif kind == "ordinal" and cells.form == "text":
        raise BadInput(
            f"column {cells.name} is ordinal: give its categories in order, as in data.kinds={{NAME: [low,mid,high]}}"
        )
    else:
        categories = tuple(cells.categories())
    if kind == "binary" and len(categories) != 2:
        raise BadInput(f"column {cells.name} is not binary: it holds {len(categories)} distinct values")
    if kind == "ordinal" and len(categories) < 2:
        raise BadInput(f"column {cells.name} is ordinal, but has one category: give all, or leave the column out")
    if len(categories) > MAX_CATEGORIES:
        raise BadInput(f"column {cells.name} has {len(categories)} categories, more than {MAX_CATEGORIES}")
    if bad := [c for c in categories if isinstance(c, str) and (c == "???" or "${" in c or len(c) > MAX_CATEGORIES)]:
        raise BadInput(f"column {cells.name} holds {shown(bad[0])!r}, which a configuration cannot keep: rename it")
    return categories


def _family(x: np.ndarray) -> str:
    """Return `negative_binomial` if counts vary significantly more than a Poisson distribution."""
    n = max(2, len(x))
    overdispersed = len(x) and x.var() > x.mean() * (1 + 2 * (2 / (n - 1)) ** 0.5)
    return "negative_binomial" if overdispersed else "poisson"
