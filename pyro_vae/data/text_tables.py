"""Reads tables from CSV and Parquet files with polars."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.data.files import require_regular
from pyro_vae.data.frames import INSTALL, require_names
from pyro_vae.data.schema import IGNORE, OF_CATEGORIES, Column
from pyro_vae.errors import BadInput, one_line, shown

log = logging.getLogger(__name__)

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?")
"""Texts of cells without a value."""
THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
NUMBER = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?")
COMMA = re.compile(r"[-+]?\d*,\d+")
LEADING_ZERO = r"^0\d+$"
"""Of postcodes and other codes, which are not numbers."""
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S")


def read_table(path: str, kinds: Mapping[str, str], separator: str | None = None, numbers: Collection[str] = ()) -> Any:
    """Read a table as a polars data frame.

    The cells of a CSV file are texts, of which columns are made: of numbers, if all cells are numbers and none is an
    integer with a leading zero, as in postcodes; of dates if all are written as 2024-01-31, with a time or without;
    otherwise of texts. The texts `MISSING` are empty cells.

    Args:
        path: a file that ends in .parquet, or a CSV file in UTF-8 whose first line has the names.
        kinds: the kinds of columns that are set; those of categories may mix texts and numbers.
        separator: character between cells; None: a tab in .tsv files, otherwise a comma.
        numbers: columns whose integers are numbers, with leading zeros as well.

    Raises:
        BadInput: if polars is missing, the file cannot be read, or a column mixes texts and numbers.
    """
    name = f"path={path}"
    require_regular(path, name)
    try:
        import polars as pl
    except ImportError as error:
        raise BadInput(f"{name}: reading tables needs polars: {INSTALL}") from error
    suffix = Path(path).suffix.lower()
    if separator is not None and (not isinstance(separator, str) or len(separator.encode()) != 1):
        raise BadInput(f"separator={shown(separator)} must be one character")
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        mark = separator or ("\t" if suffix == ".tsv" else ",")
        rows = pl.read_csv(path, separator=mark, has_header=False, infer_schema=False)
    except Exception as error:  # polars raises its own kinds, and OSError
        reason = one_line(error).partition(" The current offset")[0]
        if "more fields" in reason:
            reason = "a row has more cells than the first line: quote cells with the separator, or set data.separator"
        elif "utf-8" in reason.lower():
            text = suffix in ("", ".csv", ".tsv", ".txt")
            reason = "save it in UTF-8" if text else "give a file .csv, .tsv or .parquet"
        raise BadInput(f"{name} cannot be read as a table: {reason}") from error
    columns = [(cell or "").strip() for cell in rows.row(0)]
    if len(columns) == 1 and (other := next((c for c in ";\t|," if c in columns[0]), None)):
        raise BadInput(f"{name} has one column, named {shown(columns[0])}: set data.separator={other!r}")
    require_names(columns, name)
    if all(NUMBER.fullmatch(column) for column in columns):
        log.warning("the first line of %s holds numbers, which are used as names: add a line with names", path)
    table = rows.slice(1).rename(dict(zip(rows.columns, columns, strict=True)))
    while len(columns) > 1 and len(table) and all(cell is None for cell in table.row(-1)):
        table = table.head(-1)  # an empty line at the end
    return table.with_columns([_typed(table[column], kinds.get(column), column in numbers) for column in columns])


def numbers_of(columns: Sequence[Column]) -> list[str]:
    """Return the names of the columns that a model knows as numbers."""
    return [column.name for column in columns if column.form != "text"]


def _typed(texts: Any, kind: str | None, are_numbers: bool) -> Any:
    """Convert a polars series of texts to numbers or dates, if all cells are."""
    import polars as pl

    texts = texts.str.strip_chars()
    written = texts.filter(texts.is_in(MISSING[1:]))
    texts = texts.set(texts.is_in(MISSING), None)
    if kind == IGNORE or texts.null_count() == len(texts):
        return texts
    lower = texts.str.to_lowercase()
    if lower.drop_nulls().is_in(["true", "false"]).all():
        return lower == "true"
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() == texts.null_count():
        may_be_codes = not are_numbers and kind in (None, *OF_CATEGORIES)
        if not (may_be_codes and texts.str.contains(LEADING_ZERO).any()):
            integers = texts.cast(pl.Int64, strict=False)
            return integers if integers.null_count() == texts.null_count() else numbers
    else:
        for form in DATES[: 1 if kind in OF_CATEGORIES else None]:
            read = texts.str.to_date if form == DATES[0] else texts.str.to_datetime
            converted = read(form, strict=False)
            if converted.null_count() == texts.null_count():
                return converted
        if kind not in OF_CATEGORIES:
            _require_text(texts, numbers, kind)
    if len(written):
        log.info(
            "column %s: %d cells such as %s are read as missing", texts.name, len(written), shown(repr(written[0]))
        )
    return texts


def _require_text(texts: Any, numbers: Any, kind: str | None) -> None:
    """Check that no cell of a column of texts is meant as a number; `kind` is that of a column of numbers."""
    name, others = texts.name, texts.filter(numbers.is_null() & texts.is_not_null())
    first, count = others[0], len(others)
    if all(THOUSANDS.fullmatch(text) or COMMA.fullmatch(text) for text in others):
        raise BadInput(
            f"column {name} writes numbers with commas, such as {first!r}: use decimal points, and no thousands "
            "separators"
        )
    if kind is not None:
        raise BadInput(f"column {name} is {kind}, but holds text ({shown(first)!r}): correct it, or empty the cell")
    if count < len(texts) - texts.null_count():
        number = texts.filter(numbers.is_not_null())[0]
        raise BadInput(
            f"column {name} mixes numbers and text, such as {number!r} and {shown(first)!r}: correct the text, or set "
            f"data.kinds={{{name}: categorical}}, or {{{name}: ignore}} to leave it out"
        )
