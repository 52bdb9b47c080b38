"""`data=table` from a file to its evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import one_error_line

import pyro_vae
from pyro_vae.runs import checkpoint

SMALL = [
    "data=table", "network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=2", "estimator=importance",
    "estimator.num_samples=20",
]  # fmt: skip


def write(path: Path, **changes: object) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    z = rng.normal(size=120)
    frame = pl.DataFrame(
        {
            "_target_": 170 + 10 * z + rng.normal(size=120),
            "income, net": np.exp(8 + z),
            "visits": rng.poisson(np.exp(1 + z)),
            "city": rng.choice(["Köln", "Lyon", "Oslo"], 120),
            "id": [f"P{i}" for i in range(120)],
        }
    )
    holes = (pl.Series(rng.random(120) < 0.2) for _ in range(4))
    frame = frame.with_columns(
        pl.when(hole).then(None).otherwise(pl.col(name)).alias(name)
        for name, hole in zip(frame.columns[:4], holes, strict=True)
    )
    frame.with_columns(**{name: pl.lit(value) for name, value in changes.items()}).write_csv(path)
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a table, made by the command."""
    import sys

    from pyro_vae.commands import train

    folder = tmp_path_factory.mktemp("table")
    write(folder / "a.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr("pyro_vae.runs.figures.DPI", 30)
        patch.setattr(sys, "argv", ["train", *SMALL, "data.path=a.csv", f"hydra.run.dir={folder / 'run'}"])
        train.main()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "copy")) / "run"


def test_a_table_trains_and_reports(run):
    results = json.loads((run / "results.json").read_text())
    assert np.isfinite(results["test"]["log_px"])
    assert np.isfinite(results["test"]["baseline"])
    assert results["reconstruction_error"] < 5  # of standardized columns
    figures = {path.name for path in (run / "plots").iterdir()}
    assert figures == {"samples.png", "reconstructions.png", "training.png", "latent.png"}
    assert "left out: id (an identifier" in (run / "train.log").read_text()


def test_the_schema_is_plain_data_in_the_checkpoint(run):
    config = checkpoint.load(run / "checkpoints" / "last.pt")["config"]
    names = [column["name"] for column in config["data"]["columns"]]
    assert names == ["_target_", "income, net", "visits", "city", "id"]
    assert config["likelihood"]["columns"] == config["data"]["columns"]
    vae = pyro_vae.load(run)
    assert vae.sample(3, as_frame="pandas").columns.tolist() == names[:-1]


def test_a_table_is_evaluated_and_resumed(command, run):
    outcome = command("evaluate", f"run={run}", "estimator=importance", "estimator.num_samples=30")
    assert outcome.code == 0, outcome.err
    assert (run / "evaluations" / "importance-30.json").is_file()
    outcome = command("train", f"resume={run}", "trainer.max_epochs=3", "plots=false")
    assert outcome.code == 0, outcome.err
    saved = checkpoint.load(run / "checkpoints" / "last.pt")
    assert saved["state"]["epoch"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"city": "Rome"}, "column city holds 'Rome', which is not one of its categories Köln, Lyon, Oslo"),
        ({"more": 1}, "has a column more, which the training data did not have"),
        ({"visits": 2.5}, "column visits is count and needs counts"),
    ],
)
def test_other_tables_are_refused(command, run, changes, message):
    write(run.parent / "b.csv", **changes)
    one_error_line(command("evaluate", f"run={run}", f"data.path={run.parent / 'b.csv'}"), message)


def test_a_table_without_a_column_is_refused(command, run):
    pl.read_csv(run.parent / "a.csv").drop("visits").write_csv(run.parent / "a.csv")
    one_error_line(command("evaluate", f"run={run}", f"data.path={run.parent / 'a.csv'}"), "lacks the column visits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data=table"], "data.path is missing: give data.path=FILE.csv"),
        (["data=table", "data.path=no.csv"], "no.csv: no such file"),
        (["data=table", "data.path=a.csv", "data.kinds={city: count}"], "column city is count, but holds text"),
        (["data=table", "data.path=a.csv", "data.kinds={town: count}"], "data.kinds names town, which is not a column"),
        (["data=table", "data.path=a.csv", "data.kinds=[1]"], "data.kinds=[1] must give a kind"),
        (["data=table", "data.path=a.csv", "data.kinds.city=ignore"], "as in 'data.kinds={city: VALUE}'"),
        (["data=table", "data.path=a.csv", "likelihood=gaussian"], "column city is categorical, and its codes are not"),
        (["data=table", "data.path=a.csv", "network=conv"], "network=conv needs images"),
        (["likelihood=table", "data=digits"], "likelihood=table needs a table: use data=table"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(command, options, message, tmp_path):
    write(tmp_path / "a.csv")
    outcome = command("train", *options, "trainer.max_epochs=1")
    assert outcome.code == 2
    one_error_line(type(outcome)(2, outcome.out, outcome.err.strip().splitlines()[-1]), message)
