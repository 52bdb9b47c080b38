"""`python -m pyro_vae.score`."""

import csv
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import one_error_line
from test_table_command import run, trained, write  # noqa: F401 (fixtures)

import pyro_vae

QUICK = ["estimator=importance", "estimator.num_samples=30", "num_steps=10"]


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture
def new(tmp_path, small_data) -> Path:
    """Rows of the run's data, of which the last two are all 0 and all 1."""
    x = np.load(tmp_path / "binary.npy")[:6]
    x[4], x[5] = 0, 1
    np.save(tmp_path / "new.npy", x)
    return tmp_path / "new.npy"


def test_writes_scores_and_embeddings_with_row_numbers(command, pictures, small_run, new):
    outcome = command("score", f"run={small_run}", f"data.path={new}", "embed=true", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "compared with 20 datapoints held out of training (split=test)" in outcome.out
    assert "a density is not typicality" in outcome.out
    folder = small_run / "scores"
    suffixes = ("-embeddings.csv", "-histogram.png", ".csv", ".json", ".npz")
    assert {path.name for path in folder.iterdir()} == {f"new{suffix}" for suffix in suffixes}
    scores, arrays = read(folder / "new.csv"), np.load(folder / "new.npz")
    assert next(iter(scores[0])) == "row"
    assert [row["row"] for row in scores] == list("012345")
    assert arrays["row"].tolist() == list(range(6))
    assert arrays["contributions"].shape == (6, 12)
    assert [float(row["regret"]) for row in scores] == arrays["regret"].tolist()
    p, known = arrays["tail_probability"], arrays["held_out_log_px"]
    assert p.tolist() == [(1 + (known <= log_px).sum()) / 21 for log_px in arrays["log_px"]]
    least = arrays["contribution_tail_probability"].min(1)
    for row, entry in enumerate(row["least_likely_entry"] for row in scores):
        assert arrays["contribution_tail_probability"][row, int(entry.strip("[]"))] == least[row]
    z = read(folder / "new-embeddings.csv")
    expected = pyro_vae.load(small_run).encode(np.load(new))
    assert [list(row.values()) for row in z] == [[str(i), *map(str, e)] for i, e in enumerate(expected.tolist())]
    assert json.loads((folder / "new.json").read_text())["num_held_out"] == 20


def test_earlier_results_are_kept_unless_they_are_the_same(command, small_run, new):
    score = partial(command, "score", f"run={small_run}", f"data.path={new}", "embed=true", *QUICK)
    folder = small_run / "scores"
    assert score().code == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert score().code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    outcome = score("estimator.num_samples=31")
    assert f"kept: {folder / 'earlier' / 'new.npz'}" in outcome.out
    earlier = {path.name: path.read_bytes() for path in (folder / "earlier").iterdir()}
    assert earlier == {name: content for name, content in first.items() if name != "new-embeddings.csv"}
    assert json.loads((folder / "new.json").read_text())["num_samples"] == 31
    np.save(new, 1 - np.load(new))
    assert score("seed=3").code == 0
    assert (folder / "earlier" / "new-embeddings.csv").read_bytes() == first["new-embeddings.csv"]
    assert json.loads((folder / "earlier-2" / "new.json").read_text())["num_samples"] == 31


def test_embeddings_need_no_held_out_data(command, small_run, new, monkeypatch):
    monkeypatch.setattr("pyro_vae.runs.reload.build_data", lambda *args, **options: pytest.fail("loads them"))
    outcome = command("score", f"run={small_run}", f"data.path={new}", "score=false", "embed=true", "num_data=2")
    assert outcome.code == 0, outcome.err
    assert [path.name for path in (small_run / "scores").iterdir()] == ["new-embeddings.csv"]
    assert len(read(small_run / "scores" / "new-embeddings.csv")) == 2


def test_missing_values_of_arrays_are_imputed(command, small_run, new):
    x = np.load(new)
    x[3, 7] = np.nan
    np.save(new, x)
    score = partial(command, "score", f"run={small_run}", f"data.path={new}")
    one_error_line(score(), "data.path", "holds NaN", "score=false impute=true")
    assert score("score=false", "impute=true", "num_imputations=4").code == 0
    found = np.load(small_run / "scores" / "new-imputed.npz")
    assert found["row"].tolist() == list(range(6))
    assert found["imputed"].shape == (4, 6, 12)
    assert (found["imputed"] == x)[:, ~np.isnan(x)].all()
    assert np.isin(found["imputed"], [0, 1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.path=wrong.npy"], "data.path=wrong.npy has shape [3, 11]: the model needs [N, 12]"),
        (["data.path=none.npy"], "data.path=none.npy: no such file"),
        (["data.path=a.csv"], "data.path=a.csv is a table, but the run was trained on arrays"),
        ([], "data.path is missing: give data.path=FILE"),
        (["data.path=new.npy", "num_data=7"], "num_data=7 is more than the 6 rows"),
        (["data.path=new.npy", "score=false"], "score, embed and impute are all false"),
        (["data.path=new.npy", "split=train"], "split=train"),
        (["data.path=new.npy", "estimator=bdmc"], "estimator=bdmc does not estimate log p(x) of given data"),
        (["data.path=new.npy", "held_out.path=gone.npy"], "held_out.path=gone.npy: no such file"),
        (["data.path=new.npy", "num_held_out=0"], "num_held_out=0"),
        (["data.path=two.npy"], "likelihood=bernoulli needs values in [0, 1], the data span [2, 2]"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(command, small_run, new, options, message):
    np.save("wrong.npy", np.zeros((3, 11), np.float32))
    np.save("two.npy", np.full((3, 12), 2, np.float32))
    Path("a.csv").write_text("a,b\n1,2\n")
    one_error_line(command("score", f"run={small_run}", *options), message)
    assert not (small_run / "scores").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_a_table_is_scored_by_column(command, run):  # noqa: F811
    new = run.parent / "new.csv"
    frame = pl.read_csv(run.parent / "a.csv")[:8]
    frame[3, "visits"] = 900
    frame.write_csv(new)
    outcome = command(
        "score", f"run={run}", f"data.path={new}", "embed=true", "impute=true", "num_imputations=2", *QUICK
    )
    assert outcome.code == 0, outcome.err
    scores = read(run / "scores" / "new.csv")
    assert [row["row"] for row in scores] == list("01234567")
    assert scores[3]["least_likely_entry"] == "visits"
    names = frame.columns[:4]
    for row, cells in zip(scores, frame.select(names).iter_rows(named=True), strict=True):
        assert [row[f"contribution:{name}"] == "" for name in names] == [cells[name] is None for name in names]
    assert np.load(run / "scores" / "new.npz")["columns"].tolist() == names
    of_python = pyro_vae.load(run).anomaly_score(frame[:2], estimator="importance", num_samples=30, num_steps=10)
    assert of_python.contribution_tail_probability.shape == (2, 4)
    imputed = read(run / "scores" / "new-imputed.csv")
    assert [(row["row"], row["draw"]) for row in imputed] == [(str(i), str(k)) for k in range(2) for i in range(8)]
    assert {row["city"] for row in imputed} <= {"Köln", "Lyon", "Oslo"}
    assert imputed[3]["visits"] == "900"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_with_covariates_is_imputed(command, tmp_path):
    frame = pl.DataFrame({"a": [0.5, None, 1.5, 2.0] * 5, "b": [1.0, 2.0, 3.0, 4.5] * 5, "site": list("ab") * 10})
    settings = {"conditioning": "concat", "latent_dim": 1, "network": ("mlp", {"hidden": [4]}), "verbose": False}
    pyro_vae.fit(frame, y="site", max_epochs=1, run_dir=tmp_path / "run", **settings)
    frame.head(4).write_csv(tmp_path / "new.csv")
    outcome = command(
        "score", f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'new.csv'}", "score=false", "impute=true",
        "num_imputations=2",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    imputed = read(tmp_path / "run" / "scores" / "new-imputed.csv")
    assert [row["site"] for row in imputed] == list("abab") * 2
    assert all(row["a"] for row in imputed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"city": "Rome"}, "column city holds 'Rome', which is not one of its categories Köln, Lyon, Oslo"),
        ({"more": 1}, "has a column more, which the training data did not have"),
    ],
)
def test_tables_with_other_columns_are_refused_by_name(command, run, changes, message):  # noqa: F811
    write(run.parent / "b.csv", **changes)
    one_error_line(command("score", f"run={run}", f"data.path={run.parent / 'b.csv'}"), message)
    pl.read_csv(run.parent / "a.csv").drop("visits").write_csv(run.parent / "b.csv")
    one_error_line(
        command("score", f"run={run}", f"data.path={run.parent / 'b.csv'}"), "data.path=", "lacks the column visits"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_of_data_in_memory_needs_the_place_of_its_data(command, tmp_path, new):
    x = np.load(tmp_path / "binary.npy")
    pyro_vae.fit(x, latent_dim=2, network=("mlp", {"hidden": [8]}), max_epochs=1, verbose=False, run_dir="fitted")
    score = partial(command, "score", "run=fitted", f"data.path={new}", *QUICK)
    one_error_line(score(), "held_out.path is missing", "held_out.path=FILE.npy split=val")
    assert score("split=val", f"held_out.path={tmp_path / 'binary.npy'}", "plots=false").code == 0
