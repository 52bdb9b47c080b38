"""The runs of a sweep side by side."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, one_error_line

from pyro_vae.errors import BadInput
from pyro_vae.guides import Point
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Summary
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.runs import checkpoint, comparison, evaluation
from pyro_vae.runs.comparison import Evaluated
from pyro_vae.runs.figures import save
from pyro_vae.vae import VAE


def make_run(folder, name, overrides, best=True):
    run = folder / name
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides) or "[]\n")
    (run / "checkpoints").mkdir()
    if best:
        (run / "checkpoints" / "best.pt").touch()
        (run / "results.json").touch()
    return run


def evaluated(log_px=-8.0, elbo=-9.0, unreliable=0.0, **kind):
    unknown = dict.fromkeys(
        ("log_px_se", "log_px_mc_se", "ess_median", "ess_min", "pareto_k_max", "pareto_k_threshold")
    )
    of = {"estimator": "importance", "num_samples": 100, "num_data": 20}
    return Evaluated(Summary(log_px=log_px, elbo=elbo, unreliable=unreliable, **of, **unknown), kind)


def test_means_and_standard_errors_over_seeds(tmp_path):
    runs = [
        make_run(tmp_path, str(i), ["data=array", f"guide={guide}", f"seed={seed}"])
        for i, (guide, seed) in enumerate((g, s) for g in ("diagonal", "full_covariance") for s in (1, 2, 3))
    ]
    values = [-8.0, -7.0, -9.0, -5.0, -5.0, -5.0]
    rows = comparison.compare(
        {run: evaluated(v, v - 1, i / 10) for i, (run, v) in enumerate(zip(runs, values, strict=True))}
    )
    assert [row["options"] for row in rows] == ["guide=full_covariance", "guide=diagonal"]  # the best first
    diagonal = rows[1]
    assert (diagonal["log_px"], diagonal["elbo"], diagonal["num_runs"]) == (-8, -9, 3)
    assert diagonal["log_px_se"] == pytest.approx(1 / math.sqrt(3))
    assert (rows[0]["log_px_se"], diagonal["unreliable"]) == (0, 0.2)
    text = comparison.table(rows, "test")
    assert "guide=diagonal            3      -9.000 ± 0.577      -8.000 ± 0.577       0.200" in text


def test_a_single_run_has_no_standard_error_and_equal_options_no_label(tmp_path):
    run = make_run(tmp_path, "0", ["data=array", "seed=4"])
    (row,) = comparison.compare({run: evaluated(-1.0)})
    assert (row["options"], row["log_px_se"]) == ("all", None)
    assert "±" not in comparison.table([row], "test")
    assert comparison.table([row], "test").endswith("-9.000              -1.000               0.000")


def test_what_is_no_number_is_not_averaged(tmp_path):
    choices = [("latent_dim=2", "seed=1"), ("latent_dim=2", "seed=2"), ("latent_dim=3", "seed=1")]
    runs = [make_run(tmp_path, str(i), list(options)) for i, options in enumerate(choices)]
    found = dict(zip(runs, [evaluated(-1.0), evaluated(None, -9.0, 0.1), evaluated(-8.0)], strict=True))
    rows = comparison.compare(found)
    assert [(row["options"], row["log_px"]) for row in rows] == [("latent_dim=3", -8.0), ("latent_dim=2", None)]
    text = comparison.table(rows, "test")
    assert "latent_dim=2     2      -9.000 ± 0.000           -               0.100" in text
    save(comparison.figure(rows, found), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1500


def test_runs_come_in_order_and_those_without_a_checkpoint_are_left_out(tmp_path, caplog):
    for i in (10, 9, 2):
        make_run(tmp_path, str(i), [], best=i != 9)
    (tmp_path / "evaluations").mkdir()
    assert [run.name for run in comparison.runs_of(tmp_path)] == ["2", "10"]
    assert "9 is not finished and left out" in caplog.text
    assert comparison.runs_of(tmp_path / "2") == []  # a run is no sweep
    (tmp_path / "10" / "results.json").unlink()  # interrupted: its best epoch is not yet that of the others
    assert [run.name for run in comparison.runs_of(tmp_path)] == ["2"]
    shutil.rmtree(tmp_path / "2")
    shutil.rmtree(tmp_path / "10")
    with pytest.raises(BadInput, match="none of its 1 runs"):
        comparison.runs_of(tmp_path)


LAUNCHERS = {"basic": None, "joblib": "joblib", "ray": "ray_launcher", "submitit_local": "submitit_launcher"}


def sweep(command, small_data, folder, launcher, *options):
    small = [s for s in SMALL if not s.startswith("trainer")]
    choice = [] if launcher == "basic" else [f"+launcher={launcher}"]
    arguments = [*small, small_data, "trainer.max_epochs=1", *options, *choice, f"hydra.sweep.dir={folder}"]
    return command("train", "-m", *arguments)


def test_a_sweep_makes_a_run_each_and_they_are_compared(command, small_data, tmp_path):
    folder = tmp_path / "sweep"
    assert sweep(command, small_data, folder, "basic", "seed=1,2").code == 0
    runs = [json.loads((folder / str(i) / "results.json").read_text()) for i in range(2)]
    assert [run["config"]["seed"] for run in runs] == [1, 2]
    assert runs[0]["test"]["log_px"] != runs[1]["test"]["log_px"]
    assert command("evaluate", f"run={folder}", "estimator=elbo", "estimator.num_samples=20").code == 0
    (row,) = json.loads((folder / "evaluations" / "elbo-20.json").read_text())["rows"]
    assert (row["options"], row["num_runs"]) == ("all", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "kinds"),
    [
        ("likelihood=bernoulli,continuous_bernoulli", "probabilities and densities"),
        ("data.test_fraction=0.1,0.2", "other data"),
        ("latent_dim=1,2", None),
    ],
)
def test_log_px_of_several_kinds_is_warned_of(command, small_data, tmp_path, choices, kinds):
    assert sweep(command, small_data, tmp_path / "sweep", "basic", choices).code == 0
    outcome = command("evaluate", f"run={tmp_path / 'sweep'}", "estimator=elbo", "estimator.num_samples=5")
    assert outcome.code == 0, outcome.err
    said = [line for line in (outcome.out + outcome.err).splitlines() if "do not compare" in line]
    assert [line.partition("among the runs are ")[2] for line in said] == ([] if kinds is None else [kinds])
    best, other = json.loads((tmp_path / "sweep" / "evaluations" / "elbo-5.json").read_text())["rows"]
    assert ("paired" in other) == (kinds is None)
    if kinds is None:
        elbos = [np.load(f"{row['runs'][0]}/evaluations/elbo-5.npz")["log_px"] for row in (other, best)]
        d = elbos[0] - elbos[1]
        assert other["paired"]["difference"] == pytest.approx(d.mean())
        assert other["paired"]["se"] == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)))
        assert f"ELBO minus that of {best['options']}" in outcome.out
        assert (tmp_path / "sweep" / "evaluations" / "elbo-5-paired.png").exists()


def test_runs_on_different_rows_are_not_paired(tmp_path):
    for name, row in (("a", [0, 1, 2]), ("b", [0, 1, 2]), ("c", [0, 2, 1])):
        (tmp_path / name / "evaluations").mkdir(parents=True)
        path = tmp_path / name / "evaluations" / "elbo-5.npz"
        np.savez(path, log_px=np.arange(3.0), unreliable=np.zeros(3, bool), row=np.array(row))
    rows = [{"options": name, "runs": [str(tmp_path / name)]} for name in "abc"]
    assert list(evaluation.scores_of_options(rows[:2], "elbo-5")) == ["a", "b"]
    assert evaluation.scores_of_options(rows, "elbo-5") == {}


def test_runs_with_labels_and_without_do_not_compare():
    one = evaluated(**{"log p(x | y) and log p(x)": True, "other data": [1.0]})
    other = evaluated(**{"log p(x | y) and log p(x)": False, "other data": [1.0]})
    assert comparison.mixed_kinds([one, one]) == []
    assert comparison.mixed_kinds([one, other]) == ["log p(x | y) and log p(x)"]


def test_what_does_not_compare_is_left_out_or_refused(command, small_run, tmp_path):
    for i, guide in enumerate(("diagonal", "point")):
        shutil.copytree(small_run, tmp_path / "sweep" / str(i))
        (tmp_path / "sweep" / str(i) / ".hydra" / "overrides.yaml").write_text(f"- guide={guide}\n")
    path = tmp_path / "sweep" / "1" / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    content["config"]["guide"] = {"_target_": "pyro_vae.guides.Point"}
    posterior = VAE.build([12], 2, MLP([16]), StandardNormal, Bernoulli, Point).posterior.state_dict()
    others = {name: value for name, value in content["vae"].items() if not name.startswith("posterior")}
    content["vae"] = {**others, **{f"posterior.{name}": value for name, value in posterior.items()}}
    torch.save(content, path)
    outcome = command("evaluate", f"run={tmp_path / 'sweep'}", "estimator=elbo")
    assert outcome.code == 0, outcome.err
    assert f"{tmp_path / 'sweep' / '1'} is left out" in outcome.out + outcome.err
    one_error_line(
        command("evaluate", f"run={tmp_path / 'sweep'}", "estimator=bdmc"), "estimator=bdmc", "do not compare"
    )


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS])
def test_sweep_and_compare(command, pictures, small_data, tmp_path, launcher):
    if LAUNCHERS[launcher]:
        pytest.importorskip(f"hydra_plugins.hydra_{LAUNCHERS[launcher].removesuffix('_launcher')}_launcher")
    folder = tmp_path / "sweep"
    outcome = sweep(command, small_data, folder, launcher, "guide=diagonal,full_covariance", "seed=1,2")
    assert outcome.code == 0, outcome.err
    for i in range(4):
        assert json.loads((folder / str(i) / "results.json").read_text())["test"]["log_px"] < 0
    outcome = command("evaluate", f"run={folder}", "estimator=refined", "estimator.num_samples=20")
    assert outcome.code == 0, outcome.err
    result = json.loads((folder / "evaluations" / "refined-20.json").read_text())
    assert {row["options"] for row in result["rows"]} == {"guide=diagonal", "guide=full_covariance"}
    assert all(row["num_runs"] == 2 and row["log_px_se"] > 0 for row in result["rows"])
    assert (folder / "evaluations" / "refined-20.png").stat().st_size > 1500
    assert "guide=diagonal " in outcome.out
    for row in result["rows"]:
        each = [json.loads((Path(run) / "evaluations" / "refined-20.json").read_text()) for run in row["runs"]]
        assert row["log_px"] == pytest.approx(sum(e["log_px"] for e in each) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib"])
def test_a_job_that_fails_elsewhere_fails_the_sweep(command, small_data, tmp_path, launcher):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    outcome = sweep(command, small_data, tmp_path / "sweep", launcher, "latent_dim=0,2")
    assert outcome.code == 1
    assert "latent_dim=0" in outcome.err
    assert (tmp_path / "sweep" / "1" / "results.json").exists()


def test_a_launcher_that_is_not_installed_is_named(command, small_data):
    outcome = command("train", "-m", *SMALL, small_data, "hydra/launcher=banana")
    one_error_line(outcome, "+launcher=banana needs a plugin: pip install -e '.[banana]'")
