"""docs/reproductions.md and the scripts that write it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reproductions"


@pytest.fixture
def collect(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import collect

    return collect


@pytest.fixture
def run(tmp_path):
    """Files of a run, as `collect.py` reads them."""

    def estimate(estimator, num_samples, num_data, log_px):
        shares = {"unreliable": 0.5, "log_px_se": 0.25, "elbo": -90.0}
        return {"estimator": estimator, "num_samples": num_samples, "num_data": num_data, "log_px": log_px, **shares}

    files = {
        "results.json": {"test": estimate("importance", 5000, 10_000, -86.5)},
        "evaluations/importance-5000.json": {**estimate("importance", 5000, 100, -84.0), "split": "test"},
        "evaluations/test-500/importance-5000.json": {**estimate("importance", 5000, 500, -85.0), "split": "test"},
        "evaluations/auto-1000.json": {**estimate("auto", 1000, 100, -82.75), "split": "test"},
        "evaluations/refined-500.json": {**estimate("refined", 500, 100, -83.0), "split": "val"},
        "evaluations/gaps.json": {"test": {"approximation_gap": 1.0, "amortization_gap": 2.0, "num_data": 20}},
        "evaluations/surgery.json": {"test": {"active_units": 18}},
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(content))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(
        "- data.root=somewhere\n- trainer.batch_size=10\n- +experiment=iwae_table1/vae_k1\n"
    )
    header = "epoch,step,train/elbo,train/kl,train/log_likelihood,val/elbo,seconds\n"
    (tmp_path / "metrics.csv").write_text(header + "1,10,-200,10,-190,nan,1.5\n2,20,-150,12,-138,nan,3.2\n")
    return tmp_path


def test_the_page_is_what_the_script_writes(collect):
    assert (ROOT / "docs" / "reproductions.md").read_text() == collect.write()


def test_a_run_is_collected(collect, run, monkeypatch):
    monkeypatch.setattr("collect.FOLDER", run)
    row = collect.collected(run)
    assert row["command"] == "train +experiment=iwae_table1/vae_k1 trainer.batch_size=10"
    assert (row["epochs"], row["all_epochs"], row["seconds"], row["active_units"]) == (2, 3280, 3, 18)
    assert row["gaps"] == {"approximation_gap": 1.0, "amortization_gap": 2.0, "num_data": 20}
    found = [(each["estimator"], each["num_data"], each["log_px"]) for each in row["estimates"]]
    importance = [("importance", 100, -84.0), ("importance", 500, -85.0), ("importance", 10_000, -86.5)]
    assert sorted(found) == [("auto", 100, -82.75), *importance]
    assert collect.file_of(row["command"]) == run / "iwae_table1_vae_k1_trainer.batch_size=10.json"


def test_a_row_says_what_the_papers_estimator_missed(collect, run):
    from page import COLUMNS, cells

    row = dict(zip(COLUMNS, cells(collect.collected(run)), strict=True))
    assert row["schedule"] == "2 of 3,280"
    assert row["importance"] == "-86.50 ± 0.25, 50.0 % flagged"
    assert row["published"] == "(-86.76)"  # of all epochs
    assert row["`auto`"] == "-82.75 ± 0.25 (N = 100, their ELBO -90.00), 50.0 % flagged"
    assert row["missed"] == "1.25"  # on the same 100 digits
    assert row["approximation gap"] == "1.00 (N = 20)"
    assert row["active units"] == "18 / 19"


def test_every_row_has_what_the_page_needs(collect):
    for file in FOLDER.glob("*.json"):
        content = json.loads(file.read_text())
        if "experiment" in content:
            assert file == collect.file_of(content["command"])
            assert content["estimates"] or content["gaps"]
        else:
            assert content["table"] in ("estimators", "missing")


def test_a_run_without_an_experiment_is_left_out(collect, run):
    (run / ".hydra" / "overrides.yaml").write_text("- latent_dim=2\n")
    with pytest.raises(SystemExit, match="trained without \\+experiment=NAME"):
        collect.collected(run)
