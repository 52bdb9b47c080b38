"""`python -m pyro_vae.evaluate`."""

import json

import numpy as np
import pytest
from test_train import one_error_line


@pytest.mark.parametrize(("name", "K"), [("importance", 50), ("elbo", 30), ("prior", 40)])
def test_writes_summary_and_arrays_and_prints_the_table(command, small_run, name, K):
    outcome = command("evaluate", f"run={small_run}", f"estimator={name}", f"estimator.num_samples={K}")
    assert outcome.code == 0, outcome.err
    summary = json.loads((small_run / "evaluations" / f"{name}-{K}.json").read_text())
    arrays = np.load(small_run / "evaluations" / f"{name}-{K}.npz")
    assert set(arrays) == {"log_px", "se", "ess", "pareto_k"}
    assert all(arrays[key].shape == (20,) for key in arrays)
    assert summary["log_px"] == pytest.approx(arrays["log_px"].mean())
    assert summary["log_px_se"] == pytest.approx(arrays["log_px"].std(ddof=1) / np.sqrt(20))
    assert summary["ess_median"] == pytest.approx(np.sort(arrays["ess"])[9])
    assert (summary["estimator"], summary["num_samples"], summary["num_data"]) == (name, K, 20)
    assert f"{summary['log_px']:.3f}" in outcome.out
    results = json.loads((small_run / "results.json").read_text())["test"]
    assert set(results) <= set(summary)


def test_is_repeatable_and_leaves_the_working_folder_alone(command, small_run, tmp_path):
    before = set(tmp_path.iterdir())
    outs = [command("evaluate", f"run={small_run}", "estimator.num_samples=10").out for _ in range(2)]
    assert outs[0] == outs[1]
    assert set(tmp_path.iterdir()) == before


def test_split_and_num_data(command, small_run):
    assert command("evaluate", f"run={small_run}", "split=train", "num_data=7", "estimator.num_samples=5").code == 0
    summary = json.loads((small_run / "evaluations" / "importance-5.json").read_text())
    assert (summary["num_data"], summary["split"]) == (7, "train")


def test_estimates_exceed_the_bound(command, small_run):
    for name in ("importance", "elbo", "prior"):
        command("evaluate", f"run={small_run}", f"estimator={name}", "estimator.num_samples=200")
    log_px = {
        name: json.loads((small_run / "evaluations" / f"{name}-200.json").read_text())["log_px"]
        for name in ("importance", "elbo", "prior")
    }
    assert log_px["elbo"] < log_px["importance"]
    assert log_px["elbo"] < log_px["prior"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["split=dev"], ["split=dev", "train, val, test"]),
        (["num_data=0"], ["num_data=0"]),
        (["num_data=abc"], ["num_data=abc"]),
        (["num_data=1000"], ["num_data=1000", "20"]),
        (["estimator=banana"], ["estimator=banana", "elbo, importance, prior"]),
        (["estimator.num_samples=-5"], ["estimator.num_samples=-5"]),
        (["estimator.chunk_size=0"], ["estimator.chunk_size=0"]),
        (["seed=x"], ["seed=x"]),
        (["device=quantum"], ["device=quantum"]),
        (["guide=diagonal"], ["guide"]),
    ],
)
def test_bad_options(command, small_run, arguments, parts):
    one_error_line(command("evaluate", f"run={small_run}", *arguments), *parts)


def test_directories_that_are_no_run(command, tmp_path):
    (tmp_path / "empty").mkdir()
    one_error_line(command("evaluate"), "run=DIR")
    one_error_line(command("evaluate", "run=nowhere"), "nowhere", "no run directory")
    one_error_line(command("evaluate", "run=empty"), "empty", "no run directory")
    assert not list((tmp_path / "empty").iterdir())


def test_checkpoints_that_are_missing_truncated_or_foreign(command, small_run):
    path = small_run / "checkpoints" / "best.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt", "truncated")
    path.write_bytes(b"PK\x03\x04 something else")
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt")
    path.unlink()
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt", "no such checkpoint")


def test_data_that_have_gone(command, small_run, small_data):
    import pathlib

    pathlib.Path(small_data.partition("=")[2]).unlink()
    one_error_line(command("evaluate", f"run={small_run}"), "binary.npy", "no such file")
