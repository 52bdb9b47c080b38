"""python -m pyro_vae.compare: trained models on the same datapoints."""

import json
import os
import shlex
import shutil

import numpy as np
import pytest
import torch
from conftest import one_error_line

from pyro_vae.commands.shell import expand_home
from pyro_vae.data import array
from pyro_vae.errors import BadInput
from pyro_vae.runs import checkpoint, evaluations
from pyro_vae.runs.same_data import require_comparable

N = 20  # test data of a small run
SETTINGS = {"_target_": "pyro_vae.marginal.Importance", "num_samples": 50, "chunk_size": "auto", "compile": "auto"}
ABOUT = {"estimator": "importance", "num_samples": 50, "num_data": N, "split": "test", "seed": 0, "settings": SETTINGS}


def store(run, name="importance-50", folder="evaluations", seed=0, shift=0.0, rows=True, **about):
    """Write an evaluation as `evaluate` does, of made-up numbers."""
    about = {**ABOUT, **about}
    n = about["num_data"]
    log_px = np.random.default_rng(seed).normal(-8, 2, n) + shift
    path = run / folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.with_suffix(".json").write_text(json.dumps(about))
    np.savez(
        path.with_suffix(".npz"), log_px=log_px, unreliable=np.arange(n) < 2, **({"row": np.arange(n)} if rows else {})
    )
    return log_px


@pytest.fixture
def two(small_run, tmp_path):
    return small_run, shutil.copytree(small_run, tmp_path / "other")


def change(run, change_it):
    """Change the checkpoint of a run."""
    path = run / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    change_it(content)
    torch.save(content, path)


def lower_outputs(content):
    content["vae"]["likelihood.logits.bias" if "likelihood.logits.bias" in content["vae"] else "decoder.0.bias"] -= 1.0


def test_evaluated_runs_are_compared(command, pictures, two, tmp_path):
    change(two[1], lower_outputs)
    for run in two:
        options = ["estimator=importance", "estimator.num_samples=50", "plots=false"]
        assert command("evaluate", f"run={run}", *options).code == 0
    arrays = [np.load(run / "evaluations" / "importance-50.npz") for run in two]
    found = command("compare", f"run=[{two[0]},{two[1]}]", "hydra.run.dir=out")
    assert found.code == 0, found.err
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    about = ("evaluation", "estimator", "num_samples", "split", "num_data", "reference")
    assert [content[name] for name in about] == ["importance-50", "importance", 50, "test", N, str(two[0])]
    reference, row = content["rows"]
    d = arrays[1]["log_px"] - arrays[0]["log_px"]
    assert "difference" not in reference
    assert row["difference"] == pytest.approx(d.mean())
    assert row["se"] == pytest.approx(d.std(ddof=1) / np.sqrt(N))
    assert row["flagged_in_either"] == (arrays[0]["unreliable"] | arrays[1]["unreliable"]).sum()
    assert f"{d.mean():+.3f} ± {row['se']:.3f}" in found.out
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 1500
    assert command("compare", f"run=[{two[0]},{two[1]}]", "reference=best", "hydra.run.dir=out").code == 0
    best = json.loads((tmp_path / "out" / "comparison.json").read_text())["reference"]
    assert best == str(two[int(d.mean() > 0)])


def test_evaluations_hold_the_rows_of_the_file(command, small_run):
    config = checkpoint.load(small_run / "checkpoints" / "best.pt")["config"]["data"]
    options = ["estimator=elbo", "estimator.num_samples=5", "num_data=7", "plots=false"]
    assert command("evaluate", f"run={small_run}", *options).code == 0
    row = np.load(small_run / "evaluations" / "elbo-5.npz")["row"]
    test = array(config["path"]).test
    np.testing.assert_array_equal(np.load(config["path"])[row], test.x[:7].numpy())
    store(small_run, name="bdmc-50", estimator="bdmc", rows=False)  # simulates its data
    assert [key[0] for key in evaluations.of_run(small_run)] == ["elbo-5"]


def test_several_runs_and_arrays_without_rows(command, two, tmp_path):
    third = shutil.copytree(two[0], tmp_path / "third")
    values = [store(run, seed=i, rows=i != 1) for i, run in enumerate((*two, third))]
    found = command("compare", f"run=[{two[0]},{two[1]},{third}]", "plots=false", "hydra.run.dir=out")
    assert found.code == 0, found.err
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    for row, value in zip(rows[1:], values[1:], strict=True):
        assert row["difference"] == pytest.approx((value - values[0]).mean())
        assert row["flagged_in_both"] == 2
    assert "10.0 % of the datapoints have an unreliable estimate" in found.out + found.err
    assert not (tmp_path / "out" / "comparison.png").exists()


def test_the_missing_evaluation_is_named_with_its_command(command, two):
    runs = f"run=[{two[0]},{two[1]}]"
    evaluate = "python -m pyro_vae.evaluate"
    one_error_line(command("compare", runs), "none of these runs has stored", f"{evaluate} run={two[0]}")
    wanted = ["evaluation=importance-50", "split=val", "num_data=5"]
    complete = f"run={two[0]} estimator=importance estimator.num_samples=50 split=val num_data=5"
    one_error_line(command("compare", runs, *wanted), f"{evaluate} {complete}")
    store(two[0], settings={**SETTINGS, "num_samples": [10, 50]}, seed=3)
    made = f"{evaluate} run={two[1]} estimator=importance 'estimator.num_samples=[10,50]' split=test num_data={N}"
    about = {"settings": {**SETTINGS, "num_samples": [10, 50]}}
    path = two[0] / "evaluations" / "importance-50.json"
    path.write_text(json.dumps({**ABOUT, **about, "seed": 3}))
    one_error_line(command("compare", runs), f"{two[1]} has no evaluation importance-50", f"{made} seed=3")
    store(two[1], num_data=10)
    one_error_line(command("compare", runs), f"of the first {N} datapoints of split=test, as {two[0]} has", made)


def test_the_command_that_is_named_makes_the_evaluation(command, two):
    assert command("evaluate", f"run={two[0]}", "estimator=elbo", "estimator.num_samples=[2,5]", "seed=2").code == 0
    refused = command("compare", f"run=[{two[0]},{two[1]}]")
    line = refused.err.strip().partition("python -m pyro_vae.evaluate ")[2]
    assert command("evaluate", *shlex.split(line)).code == 0
    found = command("compare", f"run=[{two[0]},{two[1]}]")
    assert found.code == 0, found.err
    assert "ELBO minus that of" in found.out
    assert "these are ELBOs" in found.out + found.err
    assert "+0.000 ± 0.000" in found.out  # equal runs and seeds


def test_the_evaluation_in_common_is_found_and_preferred(two):
    for run in two:
        store(run, num_data=10, folder="evaluations/test-10")
        store(run, name="auto-20", num_data=10, estimator="auto", num_samples=20)
    store(two[0])
    chosen = evaluations.common(two)
    assert [one.path.stem for one in chosen] == ["auto-20", "auto-20"]
    named = evaluations.common(two, "importance-50")
    assert [one.path.parent.name for one in named] == ["test-10", "test-10"]
    store(two[1], num_data=10, seed=5)  # again, with another seed
    named = evaluations.common(two, "importance-50")
    assert [one.path.parent.name for one in named] == ["test-10", "evaluations"]
    store(two[1])
    assert [(one.path.stem, one.num_data) for one in evaluations.common(two)] == [("importance-50", N)] * 2
    (two[1] / "evaluations" / "importance-50.npz").unlink()
    assert {key[0] for key in evaluations.of_run(two[1])} == {"auto-20", "importance-50"}
    assert evaluations.common(two)[0].path.stem == "auto-20"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_shape": [13]}, "shapes"),
        ({"binarize": "threshold"}, "data.binarize=threshold and none"),
        ({"dequantize": True}, "data.dequantize=True and False"),
        ({"test": 3.0}, "other datapoints in split=test"),
        ({"val": 3.0, "split": "train"}, "other datapoints in split=val"),
        ({"val": 3.0}, None),
        ({"row": 1}, "of different rows: repeat both evaluations"),
        ({"discrete": False}, "are densities and those of"),
    ],
)
def test_other_datapoints_and_kinds_are_refused(two, monkeypatch, changes, reason):
    split = changes.get("split", "test")
    for run in two:
        store(run, split=split)

    def restore(run, *_):
        saved = checkpoint.load(run / "checkpoints" / "best.pt")
        vae = type("VAE", (), {"needs_labels": False, "likelihood": type("Likelihood", (), {"discrete": True})})
        if run == two[1]:
            saved["data_shape"] = changes.get("data_shape", saved["data_shape"])
            saved["config"]["data"] |= {k: v for k, v in changes.items() if k in ("binarize", "dequantize")}
            for name in ("val", "test"):
                saved["data"][name]["x"][4] += changes.get(name, 0.0)
            vae.likelihood.discrete = changes.get("discrete", True)
        return vae, saved

    monkeypatch.setattr("pyro_vae.runs.same_data.restore", restore)
    chosen = evaluations.common(two)
    scores = [one.scores() for one in chosen]
    scores[1].row[3] += changes.get("row", 0)
    if reason is None:
        require_comparable(dict(zip(two, chosen, strict=True)), scores, [])
        return
    with pytest.raises(BadInput, match=reason) as refused:
        require_comparable(dict(zip(two, chosen, strict=True)), scores, [])
    assert str(two[1]) in str(refused.value)


def test_other_settings_and_labels_are_warned_of(two, monkeypatch, caplog):
    for run, steps in zip(two, (1, 2), strict=True):
        store(run, settings={**SETTINGS, "num_steps": steps, "compile": steps == 1})

    def restore(run, *_):
        classes = 3 if run == two[1] else None
        likelihood = type("Likelihood", (), {"discrete": True})
        vae = type("VAE", (), {"needs_labels": classes is not None, "likelihood": likelihood})
        return vae, checkpoint.load(run / "checkpoints" / "best.pt")

    monkeypatch.setattr("pyro_vae.runs.same_data.restore", restore)
    chosen = evaluations.common(two)
    os.utime(two[0] / "checkpoints" / "best.pt", (2**31, 2**31))
    require_comparable(dict(zip(two, chosen, strict=True)), [one.scores() for one in chosen], [])
    trained, labels, settings = caplog.messages
    assert trained == f"{two[0]} was trained after its evaluation: repeat it with {chosen[0].command(two[0])}"
    assert labels == f"{two[1]} has log p(x | y), which is given the labels, and {two[0]} has log p(x)"
    assert settings.endswith("have other settings: num_steps=2 and 1")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["run is missing: give run=[A,B]"]),
        (["run=run"], ["run=run is a single run: give at least two"]),
        (["run=[run,run]"], ["run lists run twice"]),
        (["run=[run,nothing]"], ["run=nothing is not a directory"]),
        (["run=[run,other]", "reference=worst"], ["reference=worst is unknown: choose one of first, best"]),
        (["run=[run,other]", "split=dev"], ["split=dev is unknown"]),
        (["run=[run,other]", "num_data=0"], ["num_data=0"]),
        (["run=[run,other]", "evaluation=5"], ["evaluation=5 must be NAME-K"]),
    ],
)
def test_bad_input(command, two, tmp_path, arguments, parts):
    one_error_line(command("compare", *arguments), *parts)
    assert not (tmp_path / "outputs").exists()  # nothing is left behind


def test_damaged_evaluations_are_refused(command, two):
    for run in two:
        store(run)
    path = two[1] / "evaluations" / "importance-50.npz"
    np.savez(path, log_px=np.zeros(3), unreliable=np.zeros(3, bool))
    runs = f"run=[{two[0]},{two[1]}]"
    one_error_line(command("compare", runs), "holds 3 datapoints, importance-50.json 20")
    store(two[1], estimator="importance; ls", name="importance-50")  # must not get into a command to copy
    assert evaluations.of_run(two[1]) == {}
    store(two[1])
    path.write_bytes(b"PK nothing")
    one_error_line(command("compare", runs), str(path))


def test_home_is_expanded_in_lists(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(["run=[~/a,b/~c,~/d]", "x=[~/a]"]) == ["run=[/home/me/a,b/~c,/home/me/d]", "x=[~/a]"]
