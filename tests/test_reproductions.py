"""docs/reproductions.md and the scripts that write it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.marginal import ELBO, Importance

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
    assert row["`auto`"] == "-82.75 ± 0.25 (N = 100, ELBO of these -90.00), 50.0 % flagged"
    assert row["missed"] == "1.25"  # on the same 100 digits
    assert row["approximation gap"] == "1.00 (N = 20)"
    assert row["active units"] == "18 / 19"


def test_every_row_has_what_the_page_needs(collect):
    for file in FOLDER.glob("*.json"):
        content = json.loads(file.read_text())
        if "experiment" in content:
            assert file == collect.file_of(content["command"])
            assert content["estimates"] or content["gaps"] or content["classification"]
        else:
            assert content["table"] in ("estimators", "missing")


def test_a_run_without_an_experiment_is_left_out(collect, run):
    (run / ".hydra" / "overrides.yaml").write_text("- latent_dim=2\n")
    with pytest.raises(SystemExit, match="trained without \\+experiment=NAME"):
        collect.collected(run)


def test_errors_of_classes_are_collected(collect, run):
    from page import OF_CLASSES, class_cells

    results = {"classification": {"accuracy": 0.875, "accuracy_supervised": 0.75, "num_labels": 100, "num_data": 10}}
    (run / "results.json").write_text(json.dumps(results))
    row = dict(zip(OF_CLASSES, class_cells(collect.collected(run)), strict=True))
    assert (row["test error"], row["100 labels alone"]) == ("12.5 %", "25.0 %")
    assert row["published"].startswith("(11.97 %")  # after more epochs


@pytest.fixture
def estimators(collect, monkeypatch):
    """The script, with two quick estimators."""
    import estimators

    monkeypatch.setattr("estimators.NUM_DATA", 3)
    monkeypatch.setattr("estimators.FIXED", {"elbo": (ELBO(2), "K = 2"), "auto": (Importance(100), "defaults")})
    monkeypatch.setattr("estimators.ADJUSTED", {"importance": (Importance, "num_samples", 10, 20)})
    return estimators


def test_estimators_go_on_after_an_interruption(estimators, small_vae, tmp_path):
    x = torch.bernoulli(torch.full([3, 6], 0.5)).double()
    estimators.measure(tmp_path, small_vae, x)
    (tmp_path / "elbo.npz").unlink()
    kept = (tmp_path / "auto.npz").stat().st_mtime_ns
    first = np.load(tmp_path / "importance.npz")
    assert first["log_px"].shape == (3,)
    assert str(first["setting"]).startswith("num_samples = ")
    estimators.measure(tmp_path, small_vae, x)
    assert {file.name for file in tmp_path.iterdir()} == {"elbo.npz", "auto.npz", "importance.npz"}
    assert (tmp_path / "auto.npz").stat().st_mtime_ns == kept


def test_estimators_are_compared_with_the_longest_reference(estimators, run, tmp_path):
    annealed = {"num_data": 3, "log_px": -2.0, "log_px_mc_se": 0.1, "unreliable": 0.0}
    for num_samples, num_temperatures in ((32, 100), (16, 10_000)):
        settings = {"num_temperatures": num_temperatures, "num_samples": num_samples}
        content = {**annealed, "num_samples": num_samples, "settings": settings}
        (run / "evaluations" / f"ais-{num_samples}.json").write_text(json.dumps(content))
        np.savez(run / "evaluations" / f"ais-{num_samples}.npz", log_px=np.full(3, -2.0 if num_samples == 16 else 0.0))
    found = {"log_px": np.array([-2.05, -1.0, -2.0]), "flagged": np.array([False, True, False])}
    for name in ("elbo", "auto", "importance"):
        np.savez(tmp_path / f"{name}.npz", setting="K = 2", seconds=0.5, **found)
    content = estimators.compared(run, tmp_path)
    assert content["run"] == "iwae_table1/vae_k1"
    assert content["reference"]["settings"]["num_temperatures"] == 10_000
    row = content["rows"][0]
    assert row["largest"] == 1.0
    assert row["close"] == pytest.approx(2 / 3)
    assert (row["close_unflagged"], row["upper"], row["setting"]) == (1.0, None, "K = 2")


def test_a_missing_reference_is_named(estimators, run, tmp_path):
    with pytest.raises(SystemExit, match="no reference for 3 datapoints"):
        estimators.compared(run, tmp_path)
