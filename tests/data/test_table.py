"""Tables: kinds are recognized, codes survive a round trip, and what cannot be used is refused by name."""

import datetime
import logging
import random

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pyro_vae.data import from_frame, table
from pyro_vae.data.cells import cells_of
from pyro_vae.data.frames import filled, opened, to_frame, to_x
from pyro_vae.data.recognize import recognize
from pyro_vae.data.schema import modelled, of_plain
from pyro_vae.errors import BadInput, called

RNG = np.random.default_rng(0)
N = 200
random.seed(0)
NOISE = [f"{random.gauss(0, 1):.3f}" for _ in range(30)]


def kind_of(values, **kwargs):
    frame = opened(pl.DataFrame({"a": values}, **kwargs), "x")
    column, reason = recognize(cells_of(frame["a"]))
    return (column.kind, reason) if reason else column.kind


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RNG.normal(170, 10, N), "real"),
        (RNG.lognormal(8, 1, N), "positive"),
        (RNG.beta(0.5, 0.8, N), "bounded"),
        (RNG.poisson(4, N), "count"),
        (RNG.integers(1, 6, N), "ordinal"),
        (RNG.integers(-50, 50, N), "real"),
        (RNG.integers(0, 2, N), "binary"),
        (RNG.integers(0, 2, N) == 1, "binary"),
        (RNG.choice(["a", "b", "c"], N), "categorical"),
        (RNG.choice(["a", "b"], N), "binary"),
        (np.arange(N), ("ignore", "an identifier: all its values differ")),
        ([f"P{i}" for i in range(N)], ("ignore", "an identifier: all its values differ")),
        ([f"note {i % 150}" for i in range(N)], ("ignore", "free text: 150 distinct values")),
        ([3.5] * N, ("ignore", "constant")),
        ([None] * N, ("ignore", "empty")),
        ([datetime.date(2024, 1, 1 + i % 30) for i in range(N)], ("ignore", "dates")),
        ([f"{1 + i % 30}.1.2024" for i in range(N)], ("ignore", "dates")),
    ],
)
def test_kinds_are_recognized(values, expected):
    assert kind_of(values) == expected


def test_overdispersed_counts_are_negative_binomials():
    def family(x):
        return from_frame(pl.DataFrame({"a": x})).columns[0]["family"]

    assert family(RNG.poisson(3, N)) == "poisson"
    assert family(RNG.negative_binomial(1, 0.2, N)) == "negative_binomial"


def test_an_ordered_column_is_ordinal_although_two_categories_occur():
    size = pd.Series(pd.Categorical(["S", "M"] * 10, ["S", "M", "L"], ordered=True))
    (column,) = from_frame(pd.DataFrame({"size": size})).columns
    assert (column["kind"], column["categories"]) == ("ordinal", ["S", "M", "L"])


def test_ordered_categories_of_data_frames_are_ordinal():
    size = RNG.choice(["S", "M", "L"], N)
    order = ["S", "M", "L"]
    frames = [
        pd.DataFrame({"a": pd.Categorical(size, order, ordered=True)}),
        pl.DataFrame({"a": pl.Series(size, dtype=pl.Enum(order))}),
    ]
    for frame in frames:
        (column,) = from_frame(frame).columns
        assert (column["kind"], column["categories"]) == ("ordinal", order)


def people(library):
    """A table of every kind, with holes and columns to be left out."""
    content = {
        "größe": RNG.normal(170, 10, N).tolist(),
        "income": RNG.lognormal(8, 1, N).tolist(),
        "visits": RNG.poisson(4, N).tolist(),
        "member": (RNG.random(N) < 0.5).tolist(),
        "city": RNG.choice(["Köln", "Lyon", "Oslo, No"], N).tolist(),
        "stars": RNG.integers(1, 6, N).tolist(),
        "id": list(range(N)),
    }
    for name in list(content)[:-1]:
        content[name] = [None if RNG.random() < 0.2 else value for value in content[name]]
    return library.DataFrame(content)


@pytest.mark.parametrize("library", [pd, pl])
def test_a_table_survives_a_round_trip(library):
    frame = people(library)
    data = from_frame(frame)
    columns = of_plain(data.columns)
    assert of_plain([column.as_plain() for column in columns]) == columns
    x = to_x(frame, columns)
    back = to_frame(x, columns, library.__name__)
    assert isinstance(back, library.DataFrame)
    assert list(back.columns) == list(frame.columns)[:-1]
    assert torch.equal(to_x(back, modelled(columns)), x) or torch.equal(
        to_x(back, modelled(columns)).nan_to_num(-1), x.nan_to_num(-1)
    )
    for name in ("member", "city", "stars"):  # categories come back as they were
        before, after = (list(pd.Series(list(one[name]), dtype=object)) for one in (frame, back))
        assert [a for a, b in zip(after, before, strict=True) if b is not None and b == b] == [
            b for b in before if b is not None and b == b
        ]


@pytest.mark.parametrize("library", [pd, pl])
def test_holes_are_filled_and_other_cells_are_kept(library):
    frame = people(library)
    columns = of_plain(from_frame(frame).columns)
    x = to_x(frame, columns)
    guess = torch.tensor([1.5, 2.5, 3.0, 1.0, 2.0, 4.0]).expand_as(x)
    full = filled(frame, torch.where(x.isnan(), guess, x), ~x.isnan(), columns)
    assert isinstance(full, library.DataFrame)
    for name, expected in zip(list(frame.columns), [1.5, 2.5, 3, True, "Oslo, No", 5, None], strict=True):
        for before, after in zip(list(frame[name]), list(full[name]), strict=True):
            hole = before is None or before != before
            assert after == (expected if hole else before)


def test_files_and_data_frames_give_the_same_data(tmp_path):
    frame = people(pl)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    frame.write_parquet(tmp_path / "a.parquet")
    x = from_frame(frame).train.x
    for name in ("a.csv", "a.tsv", "a.parquet"):
        data = table(str(tmp_path / name))
        assert torch.allclose(data.train.x, x, equal_nan=True)
        again = table(str(tmp_path / name), columns=data.columns)
        assert torch.equal(again.test.x.nan_to_num(-1), data.test.x.nan_to_num(-1))


def test_what_is_left_out_is_named_unless_asked_for(caplog):
    frame = people(pl).with_columns(pl.lit(3).alias("version"))
    with called({"data.kinds": "kinds"}):
        from_frame(frame)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "id (an identifier: all its values differ), version (constant); kinds={NAME: KIND}" in warning
    caplog.clear()
    data = from_frame(
        frame, kinds={"id": "count", "version": "ignore", "stars": {"kind": "count", "family": "poisson"}}
    )
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
    kinds = {column["name"]: column["kind"] for column in data.columns}
    assert (kinds["id"], kinds["version"], kinds["stars"]) == ("count", "ignore", "count")


def with_column(cell, first="a,b"):
    return "\n".join([first, *(f"{NOISE[i]},{cell(i)}" for i in range(30))])


TRAPS = {
    "empty cells": (with_column(lambda i: "" if i % 3 else i % 5 + 0.5), "real"),
    "NA": (with_column(lambda i: "NA" if i % 3 else i % 5 + 0.5), "real"),
    "mixed types": (with_column(lambda i: "three" if i == 3 else i), "column b mixes numbers and text.* 'three'"),
    "equal names": (with_column(lambda i: i, "b,b"), "has two columns named b"),
    "unicode": (with_column(lambda i: ["北京", "São", "Zürich"][i % 3]), "categorical"),
    "thousands": (with_column(lambda i: f'"{i + 1},000"' if i % 2 else i), "column b .* thousands separators"),
    "decimal commas": (with_column(lambda i: f'"{i},523"'), "column b writes numbers with commas, .* decimal points"),
    "dates": (with_column(lambda i: f"2024-01-{1 + i % 28:02d}"), "ignore"),
    "times": (with_column(lambda i: f"2024-01-{1 + i % 28:02d} 10:00"), "ignore"),
    "constant": (with_column(lambda i: 7), "ignore"),
    "no values": (with_column(lambda i: ""), "ignore"),
    "infinite": (with_column(lambda i: "inf" if i == 3 else i / 2), "column b holds infinite values"),
    "one row": ("a,b\n1,2", "has 1 row"),
    "no rows": ("a,b", "has no rows"),
    "no text": ("", "cannot be read as a table"),
    "no name": (with_column(lambda i: i, "a,"), "column 2 .* has no name"),
    "semicolons": ("a;b\n1;2\n3;4", "data.separator=';'"),
    "more cells": (with_column(lambda i: "1,2" if i == 4 else i), "a row has more cells"),
    "an open quote": ('a,b\n"x,2\n1,2', "cannot be read as a table"),
    "latin-1": (with_column(lambda i: "é").encode("latin1"), "save it in UTF-8"),
    "a mark": (b"\xef\xbb\xbf" + with_column(lambda i: i / 2).encode(), "real"),
    "windows": (with_column(lambda i: i / 2).replace("\n", "\r\n"), "real"),
    "an interpolation": (with_column(lambda i: i / 2, "a,${b}"), "cannot keep: rename"),
    "codes of ids": (with_column(lambda i: i / 7 + 1.7e9), "column b varies by .* single precision"),
    "booleans": (with_column(lambda i: ["True", "False"][i % 2]), "binary"),
    "empty lines at the end": (with_column(lambda i: i / 2) + "\n\n\n", "real"),
    "only constants": ("a,b\n1,2\n1,2\n1,2", r"no column to model: a \(constant\), b \(constant\)"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_csv_file_with_a_trap_is_read_or_refused_by_name(name, tmp_path):
    content, expected = TRAPS[name]
    file = tmp_path / "x.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    if expected in ("real", "categorical", "ignore", "binary"):
        data = table(str(file))
        assert data.columns[1]["kind"] == expected
        assert data.columns[0] == {"name": "a", "kind": "real", "form": "float"}
        assert sum(data.sizes.values()) == 30
        assert not data.train.x[:, 0].isnan().any()
        return
    with pytest.raises(BadInput, match=expected) as caught:
        table(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("counts", r"the kind of column b=counts is unknown \(did you mean count\?\): choose one of real"),
        ("positive", "column b is positive and needs positive values, but holds 0"),
        ("bounded", "column b is bounded and needs values strictly between 0 and 1, but holds 0"),
        ({"kind": "bounded", "bounds": [5]}, r"column b: bounds=\[5\] must be two numbers"),
        ({"kind": "count", "family": "gamma"}, "the family of column b=gamma is unknown"),
        ({"kind": "count", "families": 3}, "column b: .* must be a kind"),
        ("binary", "column b is not binary: it holds 30 distinct values"),
        ([0, 1, 2], "column b holds '3', which is not one of its categories 0, 1, 2"),
        ([1, 1], "column b: categories names 1 twice"),
        ([1], "column b is ordinal, but has one category"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(kind, message, tmp_path):
    (tmp_path / "x.csv").write_text(with_column(lambda i: i))
    with pytest.raises(BadInput, match=message):
        table(str(tmp_path / "x.csv"), kinds={"b": kind})


def test_a_first_line_of_numbers_is_told_of(tmp_path, caplog):
    for first, told in (("a,1", False), ("-0.5,1e3", True)):
        (tmp_path / "x.csv").write_text(with_column(lambda i: i % 4, first))
        caplog.clear()
        table(str(tmp_path / "x.csv"))
        assert any("x.csv holds numbers, which are used as names" in message for message in caplog.messages) == told


def test_text_in_a_column_of_numbers_of_a_trained_model_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text(with_column(lambda i: i / 2))
    columns = table(str(tmp_path / "x.csv")).columns
    (tmp_path / "x.csv").write_text(with_column(lambda i: "heavy" if i == 3 else i / 2))
    with pytest.raises(BadInput, match=r"column b is real, but holds text \('heavy'\): correct it"):
        table(str(tmp_path / "x.csv"), columns=columns)


def test_kinds_can_be_set(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text(with_column(lambda i: "3+" if i % 3 == 0 else i % 3))
    data = table(str(file), kinds={"b": ["1", "2", "3+"]})
    assert data.columns[1] == {"name": "b", "kind": "ordinal", "form": "text", "categories": ["1", "2", "3+"]}
    file.write_text(with_column(lambda i: f"2024-01-{1 + i % 28:02d}"))
    data = table(str(file), kinds={"b": "real"})  # days since 1970
    x = to_x(to_frame(data.train.x, of_plain(data.columns), "pandas"), of_plain(data.columns))
    assert torch.allclose(x, data.train.x, atol=1e-2)
    assert data.train.x[:, 1].min() >= (datetime.date(2024, 1, 1) - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="city"), "x lacks the column city"),
        (lambda f: f.assign(extra=1), "x has a column extra, which the training data did not have"),
        (lambda f: f.assign(city="Rome"), "column city holds 'Rome', which is not one of its categories Köln"),
        (
            lambda f: f.assign(income=-1.0),
            "column income is positive and needs positive values, but holds -1: correct it",
        ),
        (lambda f: f.assign(visits="many"), r"column visits holds text \('many'\), but needs numbers"),
        (lambda f: f.head(0), "x has no rows"),
        (lambda f: f.rename(columns={"city": "id"}), "x has two columns named id"),
        (lambda f: f.set_axis(range(7), axis=1), "x names a column 0: names must be text"),
    ],
)
def test_other_tables_are_refused_by_name(change, message):
    frame = people(pd)
    columns = of_plain(from_frame(frame).columns)
    with pytest.raises(BadInput, match=message):
        to_x(change(frame), columns)
    assert to_x(frame.drop(columns="id"), columns).shape == (N, 6)  # what was left out may be missing


def test_columns_of_python_objects():
    frame = pd.DataFrame({"flag": [True, None, False] * 10, "mixed": [1, "a", None] * 10})
    with pytest.raises(BadInput, match="column mixed mixes types, such as"):
        from_frame(frame)
    (column,) = from_frame(frame[["flag"]]).columns
    assert (column["kind"], column["form"]) == ("binary", "boolean")
    for values, message in (([b"a", b"b"], "column c holds b'a'"), ([1j, 2j], "column c has type complex128")):
        with pytest.raises(BadInput, match=message):
            from_frame(pd.DataFrame({"c": values * 10}))


@pytest.mark.parametrize("dtype", ["boolean", "Int64", "Float64", "string", "category", object])
def test_missing_values_of_pandas_own_types(dtype):
    values = ["a", pd.NA, "b"] if dtype in ("string", "category") else [True, pd.NA, False]
    frame = pd.DataFrame({"c": pd.Series(values * 10, dtype=dtype)})
    columns = of_plain(from_frame(frame).columns)
    assert columns[0].kind == "binary"
    x = to_x(frame, columns)[:, 0]
    assert x[::3].eq(x[0]).all()
    assert x[1::3].isnan().all()
    assert x[2::3].eq(1 - x[0]).all()


def test_the_split_is_random_and_fixed():
    data, again = (from_frame(people(pl).with_columns(a=pl.Series(np.arange(N) / 7)), split_seed=1) for _ in range(2))
    assert data.sizes == {"train": 160, "val": 20, "test": 20}
    assert torch.equal(data.train.x[:, -1], again.train.x[:, -1])
    with pytest.raises(BadInput, match="leave an empty training, validation or test set"):
        from_frame(people(pl).head(3))


def test_a_missing_reader_is_named(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("polars", "narwhals"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (tmp_path / "x.csv").write_text(with_column(lambda i: i))
    frame = people(pd)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"needs polars: pip install 'pyro-vae\[table\]'"):
        table(str(tmp_path / "x.csv"))
    with pytest.raises(BadInput, match=r"needs narwhals: pip install 'pyro-vae\[table\]'"):
        from_frame(frame)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_new_rows_may_repeat_a_value(n):
    """The mean of three 0.2 in double precision is not 0.2."""
    train = from_frame(pl.DataFrame({"a": RNG.normal(size=N).tolist(), "b": RNG.poisson(3, N)}))
    x = to_x(pl.DataFrame({"a": [0.2] * n, "b": [1] * n}), of_plain(train.columns))
    assert torch.equal(x, torch.tensor([[0.2, 1.0]]).expand(n, 2))
