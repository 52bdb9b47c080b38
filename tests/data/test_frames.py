"""Data frames as tensors and back: types of cells, categories, dates, and cells that are filled in."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pyro_vae.data import from_frame
from pyro_vae.data.frames import filled, to_frame, to_x
from pyro_vae.data.schema import Column, described, duplicate, of_plain
from pyro_vae.data.sources import source_of
from pyro_vae.errors import BadInput
from pyro_vae.vae.inputs import as_observed

RNG = np.random.default_rng(0)
N = 60
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(i)) for i in RNG.integers(0, 99, N)]
BERLIN = pd.to_datetime("2020-01-01", utc=True).tz_convert("Europe/Berlin")
FRAME = pd.DataFrame(
    {
        "grade": pd.Categorical(RNG.choice(["low", "mid", "high"], N), ["low", "mid", "high"], ordered=True),
        "city": RNG.choice(["a", "b", "c"], N),
        "code": pd.Categorical(RNG.choice([1, 2, 3], N)),
        "stars": pd.Categorical(RNG.choice([1, 2, 5], N), ordered=True),
        "dose": pd.Categorical(RNG.choice([0.5, 1.5, 2.0], N)),
        "bin": pd.cut(RNG.normal(size=N), 3),
        "ok": pd.array(RNG.choice([True, False], N), dtype="boolean"),
        "visits": pd.array(RNG.poisson(3, N), dtype="Int64"),
        "name": pd.array(RNG.choice(["u", "v", "w"], N), dtype="string"),
        "day": DAYS,
        "when": BERLIN + pd.to_timedelta(RNG.integers(0, 999, N), "h"),
    }
)
DATES = {"day": "real", "when": "real"}


def columns_of(frame, **kinds):
    return of_plain(from_frame(frame, kinds=kinds or None).columns)


def test_types_of_columns_are_kinds():
    columns = {column.name: column for column in columns_of(FRAME, **DATES)}
    kinds = ["ordinal", "categorical", "categorical", "ordinal", "categorical", "ordinal", "binary", "count"]
    assert [column.kind for column in columns.values()] == [*kinds, "categorical", "real", "real"]
    assert columns["code"].categories == (1, 2, 3)
    assert columns["stars"].categories == (1, 2, 5)
    assert columns["dose"].categories == (0.5, 1.5, 2)
    assert {columns[name].form for name in DATES} == {"date"}
    text = described(tuple(columns.values()))
    assert text.startswith("columns: grade ordinal, city categorical, ")
    assert text.endswith(" (if visits holds codes, not counts, call it categorical in data.kinds)")


def test_a_missing_cell_changes_no_other():
    columns = columns_of(FRAME, **DATES)
    x = to_x(FRAME, columns)
    for name in FRAME.columns:
        holes = FRAME.copy()
        holes.loc[1, name] = None
        expected = x.clone()
        expected[1, list(FRAME.columns).index(name)] = torch.nan
        torch.testing.assert_close(to_x(holes, columns), expected, equal_nan=True)


def test_filled_columns_keep_their_types():
    columns = columns_of(FRAME, **DATES)
    x = to_x(FRAME, columns)
    holes = FRAME.copy()
    for name in FRAME.columns:
        holes.loc[1, name] = None
    back = filled(holes, x, ~to_x(holes, columns).isnan(), columns)
    pd.testing.assert_frame_equal(back.drop(columns="when"), FRAME.drop(columns="when"))
    assert back["when"].dtype == FRAME["when"].dtype
    assert abs(back["when"] - FRAME["when"]).max() < pd.Timedelta("5min")  # days in single precision


def test_cells_are_filled_with_categories_that_the_frame_does_not_define():
    columns = columns_of(FRAME, **DATES)
    new = FRAME[:3].assign(
        grade=pd.Categorical(["low", None, "low"], ["low"], ordered=True),
        stars=pd.Categorical([1, None, 2], ordered=True),
        city=np.nan,
    )
    x = to_x(FRAME[:3], columns)
    x[1, 0], x[1, 3] = 2, 2
    back = filled(new, x, ~to_x(new, columns).isnan(), columns)
    assert back["grade"].tolist() == ["low", "high", "low"]
    assert back["stars"].tolist() == [1, 5, 2]
    assert back["city"].tolist() == FRAME["city"][:3].tolist()
    of_two = [Column("g", "ordinal", "text", ("low", "mid")), Column("c", "categorical", "text", ("a", "b"))]
    of_polars = pl.DataFrame({"g": pl.Series(["low", None], dtype=pl.Enum(["low"])), "c": [None, None]})
    back = filled(of_polars, torch.ones(2, 2), ~to_x(of_polars, of_two).isnan(), of_two)
    assert back.rows() == [("low", "b"), ("mid", "b")]


def test_sampled_categories_are_those_of_the_training_data():
    columns = columns_of(FRAME[["code", "dose", "ok"]])
    sample = to_frame(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), columns, "pandas")
    assert sample.to_dict("list") == {"code": [3, 1], "dose": [0.5, 1.5], "ok": [True, False]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"city": ["z", "a", "z"]}, r"column city holds 'z', .* categories a, b, c \(2 rows\): correct it, or leave"),
        ({"code": pd.Categorical([1, 4, 2])}, r"column code holds '4', .* categories 1, 2, 3 \(1 row\): correct it"),
        ({"day": ["2020-01-01"] * 3}, r"'2020-01-01'\), but needs numbers: convert it, as in pd.to_datetime\(df\['day"),
    ],
)
def test_what_does_not_fit_is_told_with_a_remedy(change, message):
    columns = columns_of(FRAME, **DATES)
    with pytest.raises(BadInput, match=message):
        to_x(FRAME[:3].assign(**change), columns)


def test_csv_files_keep_codes_dates_and_times(tmp_path, caplog):
    from pyro_vae.data.table import table

    path, codes = tmp_path / "t.csv", RNG.choice(["01002", "10115", "20095"], 40)
    frame = pd.DataFrame({"zip": codes, "cellar": RNG.choice(["None", "good", "fair"], 40), "v": RNG.normal(size=40)})
    times = BERLIN.tz_localize(None) + pd.to_timedelta(RNG.integers(0, 999, 40), "h")
    frame.assign(at=times.strftime("%Y-%m-%d %H:%M")).to_csv(path, index=False)
    with caplog.at_level("INFO"):
        data = table(str(path), kinds={"at": "real"})
    columns = {column.name: column for column in of_plain(data.columns)}
    assert (columns["zip"].kind, columns["zip"].categories) == ("categorical", ("01002", "10115", "20095"))
    assert columns["cellar"].categories == ("fair", "good")
    assert columns["at"].form == "date"
    assert f"column cellar: {(frame['cellar'] == 'None').sum()} cells such as 'None' are read as missing" in caplog.text
    numbers = [Column("zip", "categorical", "integer", (1002, 10115, 20095)), Column("cellar", "ignore"), columns["v"]]
    known = [*numbers, columns["at"]]  # as an earlier version wrote them
    assert table(str(path), columns=[column.as_plain() for column in known]).train.x[:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("cells", "saved", "codes"),
    [
        ([2.0, 0.5, 1.0], ("0.5", "1.0", "2.0"), [2, 0, 1]),
        ([True, False], ("False", "True"), [1, 0]),
        ([3, 1, 2], ("1.0", "2.0", "3.0"), [2, 0, 1]),
    ],
)
def test_categories_that_earlier_versions_kept_as_texts_are_read(cells, saved, codes):
    frame = pd.DataFrame({"a": pd.Categorical(cells)})
    assert to_x(frame, [Column("a", "categorical", "text", saved)])[:, 0].tolist() == codes


def test_times_with_zones_are_filled():
    days = pl.datetime_range(datetime.datetime(2020, 3, 1), datetime.datetime(2020, 4, 29), "1d", eager=True)
    frame = pl.DataFrame({"when": days.dt.replace_time_zone("Europe/Berlin"), "v": np.arange(N) ** 0.5})
    columns = columns_of(frame, when="real")
    x = to_x(frame, columns)
    holes = frame.with_columns(pl.when(pl.int_range(N) == 1).then(None).otherwise("when").alias("when"))
    back = filled(holes, x, ~to_x(holes, columns).isnan(), columns)
    assert back.schema == frame.schema
    assert abs((back["when"] - frame["when"]).dt.total_seconds()).max() < 300


def test_times_of_arrow_in_pandas_are_read():
    pytest.importorskip("pyarrow")
    columns = columns_of(FRAME[["when"]].assign(v=np.arange(N) ** 0.5), when="real")
    frame = pd.DataFrame({"when": FRAME["when"].astype("timestamp[us, tz=Europe/Berlin][pyarrow]"), "v": 1.0})
    torch.testing.assert_close(to_x(frame, columns)[:, 0], to_x(FRAME[["when"]].assign(v=1.0), columns)[:, 0])
    frame.loc[1, "when"] = None
    assert to_x(frame, columns).isnan().sum() == 1


def test_wide_frames_are_put_into_order_quickly():
    names = [f"c{i}" for i in range(30_000)]
    assert duplicate([*names, "c7"]) == "c7"
    x = pd.DataFrame(np.zeros((2, len(names))), columns=names[::-1])
    assert list(source_of(x, features=names).x) == names


def test_masks_are_frames_with_the_columns_of_x():
    x = torch.zeros(3, 2)
    mask = pd.DataFrame({"z": [True] * 3, "b": [True, False, True], "a": [False] * 3})
    for given in (mask, mask.astype("boolean"), pl.from_pandas(mask)):
        assert as_observed(given, x, ["a", "b"]).tolist() == [[False, True], [False, False], [False, True]]
    with pytest.raises(BadInput, match="mask lacks the column c: give it the columns of x"):
        as_observed(mask, x, ["a", "c"])
