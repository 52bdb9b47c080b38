"""`python -m pyro_vae.train`: the run directory's contract, resuming, and every kind of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, every, one_error_line

import pyro_vae
from pyro_vae.runs import checkpoint, metrics, results
from pyro_vae.training.trainer import Trainer

CONTRACT = [
    ".hydra/config.yaml", "checkpoints/last.pt", "checkpoints/best.pt", "metrics.csv", "results.json",
    "plots/samples.png", "plots/reconstructions.png", "plots/training.png", "plots/latent.png", "plots/manifold.png",
]  # fmt: skip


def test_run_directory_holds_what_the_contract_says(small_run):
    for name in CONTRACT:
        assert (small_run / name).stat().st_size > 0, name
    assert list(small_run.glob("events.out.tfevents.*"))
    results = json.loads((small_run / "results.json").read_text())
    test = results["test"]
    assert {"elbo", "log_px", "log_px_se", "estimator", "num_samples", "ess_median", "num_data"} <= set(test)
    assert (test["estimator"], test["num_samples"], test["num_data"]) == ("refined", 20, 20)
    beside = results["importance"]
    assert (beside["estimator"], beside["num_samples"], beside["num_data"]) == ("importance", 1000, 20)
    assert set(beside) == set(test)
    assert test["elbo"] <= test["log_px"] < 0
    assert results["train_seconds"] > 0
    assert results["skipped_steps"] == 0
    assert "given" not in test
    assert results["config"]["latent_dim"] == 2
    rows = metrics.read(small_run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (
        (small_run / "metrics.csv")
        .read_text()
        .startswith("epoch,step,train/elbo,train/kl,train/log_likelihood,val/elbo,seconds\n")
    )


def test_auto_is_the_default_beside_what_papers_report(command, small_data, tmp_path):
    small = [option for option in SMALL if not option.startswith("estimator")]
    outcome = command("train", *small, small_data, f"hydra.run.dir={tmp_path / 'run'}", "plots=false")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    test, beside = results["test"], results["importance"]
    assert (test["estimator"], test["num_samples"], test["unreliable"]) == ("auto", 1000, 0.0)
    assert test["stages"] == {"quadrature": 1.0}
    assert test["log_px"] == pytest.approx(beside["log_px"], abs=0.1)
    titles = [line for line in outcome.out.splitlines() if line.startswith("test, 20 datapoints, ")]
    assert titles == [
        "test, 20 datapoints, estimator auto, K = 1000 (nats per datapoint)",
        "test, 20 datapoints, estimator importance, K = 1000: samples from the guide, as in papers "
        "(nats per datapoint)",
    ]
    assert "unreliable, and" not in outcome.out


def test_output_names_the_directory_first_and_last_and_shows_epochs_and_the_table(command, small_data, tmp_path):
    outcome = command("train", *SMALL, small_data, f"hydra.run.dir={tmp_path / 'run'}")
    lines = outcome.out.strip().splitlines()
    assert lines[0] == lines[-1] == f"run directory: {tmp_path / 'run'}"
    assert sum(line.startswith("epoch ") for line in lines) == 2
    results = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert any(line.split()[:2] == ["log_px", f"{results['log_px']:.3f}"] for line in lines)
    assert outcome.err == ""


def test_default_directory_is_named_after_the_experiment(command, small_data, tmp_path):
    outcome = command("train", "+experiment=gaussian", *SMALL, small_data)
    assert outcome.code == 0
    (run_dir,) = (tmp_path / "outputs" / "gaussian").iterdir()
    assert (run_dir / "results.json").is_file()


OPTIONS = [
    ["guide=full_covariance", "objective=trace_elbo", "objective.num_particles=3"],
    ["likelihood=gaussian", "likelihood.scale=per_pixel", "scheduler=cosine", "optimizer=sgd"],
    ["likelihood=gaussian", "scheduler=plateau", "optimizer=adamw", "trainer.clip_norm=1"],
    ["estimator=ais", "estimator.num_temperatures=5", "guide=full_covariance"],
    ["estimator=elbo", "scheduler=step", "optimizer=rmsprop", "data.binarize=dynamic"],
    ["estimator=prior", "scheduler=exponential", "optimizer=adamax", "trainer.patience=1"],
]


@pytest.mark.parametrize("options", every(6, OPTIONS))
def test_options_run(command, small_data, tmp_path, options):
    outcome = command("train", *SMALL, small_data, *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert np.isfinite([test["elbo"], test["log_px"], test["log_px_se"]]).all()


def test_images_and_more_latents(command, tmp_path):
    np.save("pictures.npy", np.random.default_rng(0).integers(0, 256, (60, 3, 9, 8), dtype=np.uint8))
    options = ["data=array", "data.path=pictures.npy", "network=conv", "network.channels=[4,4]", "network.hidden=8"]
    outcome = command(
        "train", *options, "latent_dim=3", "likelihood=gaussian", "trainer.max_epochs=1", "estimator=refined",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run" / "plots" / "manifold.png").exists()


def weights(run_dir, name="last"):
    return checkpoint.load(run_dir / "checkpoints" / f"{name}.pt")


def test_resume_goes_on_bit_for_bit(command, small_data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*SMALL, small_data, "data.binarize=dynamic", "scheduler=exponential"]
    assert command("train", *options, "trainer.max_epochs=4", f"hydra.run.dir={whole}").code == 0
    assert command("train", *options, "trainer.max_epochs=2", f"hydra.run.dir={parts}").code == 0
    started_with = (parts / ".hydra" / "config.yaml").read_text()
    outcome = command("train", f"resume={parts}", "trainer.max_epochs=4", "estimator.num_samples=7")
    assert outcome.code == 0, outcome.err
    assert "resumed after epoch 2" in outcome.out
    a, b = weights(whole), weights(parts)
    assert all(torch.equal(a["vae"][name], b["vae"][name]) for name in a["vae"])
    assert a["state"] | {"seconds": 0} == b["state"] | {"seconds": 0}
    assert torch.equal(a["rng"][0]["cpu"], b["rng"][0]["cpu"])
    rows = [[{**row, "seconds": 0} for row in metrics.read(run_dir)] for run_dir in (whole, parts)]
    assert rows[0] == rows[1]
    results = json.loads((parts / "results.json").read_text())
    assert results["test"]["num_samples"] == 7
    assert results["config"]["trainer"]["max_epochs"] == 4
    assert (parts / ".hydra" / "config.yaml").read_text() == started_with


def test_a_requeued_slurm_job_goes_on(command, small_data, tmp_path, monkeypatch):
    """Slurm runs the same command again, after a node's failure say: the directory then holds this very run."""
    options, requeued = [*SMALL, small_data], tmp_path / "requeued"

    def killed(*args):
        raise SystemExit(15)

    with monkeypatch.context() as patch:
        real = Trainer.validate
        calls = iter([real, killed])
        patch.setattr(Trainer, "validate", lambda *args: next(calls)(*args))
        assert command("train", *options, f"hydra.run.dir={requeued}").code == 15
    assert weights(requeued)["state"]["epoch"] == 1
    one_error_line(command("train", *options, f"hydra.run.dir={requeued}"), "already holds a run")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    other = command("train", *options, "latent_dim=3", f"hydra.run.dir={requeued}")
    one_error_line(other, "already holds a run with other options")
    outcome = command("train", *options, f"hydra.run.dir={requeued}")
    assert outcome.code == 0, outcome.err
    assert "resumed after epoch 1" in outcome.out
    assert [row["epoch"] for row in metrics.read(requeued)] == [1, 2]


def test_resume_refuses_what_is_no_run_and_what_would_change_the_model(command, small_run, tmp_path):
    one_error_line(command("train", f"resume={tmp_path / 'nothing'}"), "nothing", "not a run")
    assert not (tmp_path / "nothing").exists()
    one_error_line(command("train", f"resume={small_run}", "guide=full_covariance"), "guide=full_covariance", "resumed")
    one_error_line(command("train", f"resume={small_run}", "trainer.batch_size=0"), "trainer.batch_size=0")
    of_trainer = command("train", f"resume={small_run}", "trainer.max_epoch=9")
    one_error_line(of_trainer, "trainer.max_epoch is not a key", "did you mean max_epochs?")
    of_estimator = command("train", f"resume={small_run}", "estimator.num_draw=3", "estimator=nuts")
    one_error_line(of_estimator, "estimator.num_draw is not a key", "did you mean num_draws?")
    for name in ("last", "previous"):
        path = small_run / "checkpoints" / f"{name}.pt"
        path.write_bytes(path.read_bytes()[:-100])
    one_error_line(command("train", f"resume={small_run}"), "previous.pt is damaged")


def test_a_finished_run_is_not_overwritten(command, small_run, small_data):
    before = {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()}
    outcome = command("train", *SMALL, small_data, "latent_dim=3", f"hydra.run.dir={small_run}")
    one_error_line(outcome, str(small_run), "already holds a run", f"resume={small_run}")
    assert {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["guide=banana"], ["guide=banana", "diagonal, enumerated, full_covariance"]),
        (["likelihood=banana"], ["likelihood=banana", "bernoulli, beta"]),
        (["data=banana"], ["data=banana", "mnist5k"]),
        (["+experiment=banana"], ["experiment=banana", "bernoulli, bernoulli_full_covariance"]),
        (["banana=1"], ["banana", "latent_dim"]),
        (["trainer.epochs=1"], ["trainer.epochs", "max_epochs"]),
        (["+guide.width=3"], ["guide", "width"]),
        (["latent_dim=0"], ["latent_dim=0", "at least 1"]),
        (["latent_dim=two"], ["latent_dim=two"]),
        (["optimizer.lr=-1"], ["-1"]),
        (["optimizer.lr=nan"], ["nan"]),
        (["optimizer.lr=fast"], ["fast"]),
        (["network.hidden=[0]"], ["network.hidden=0"]),
        (["network=conv"], ["network=conv", "[12]"]),
        (["objective.num_particles=0"], ["objective.num_particles=0"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs=0"]),
        (["trainer.clip_norm=-1"], ["trainer.clip_norm=-1"]),
        (["trainer.device=quantum"], ["device=quantum"]),
        (["estimator.num_samples=0"], ["estimator.num_samples=0"]),
        (["likelihood=gaussian", "likelihood.scale=huge"], ["likelihood.scale=huge", "per_pixel"]),
        (["data.binarize=maybe"], ["data.binarize=maybe", "threshold"]),
        (["data.path=nowhere.npy"], ["nowhere.npy", "no such file"]),
        (["data.test_fraction=0"], ["split=test is empty", "data.test_fraction"]),
        (["seed=-1"], ["seed=-1"]),
        (["seed=[1"], ["seed=[1"]),
        (["data.val_fraction=abc"], ["data.val_fraction=abc"]),
        (["+data.banana=3"], ["data", "banana"]),
        (["guide=null"], ["guide=None is unknown: choose one of"]),
        (["guide=../data/mnist"], ["guide=../data/mnist is unknown: choose one of"]),
        (["trainer.device=null"], ["device=None"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]"]),
        (["optimizer._target_=torch.optim.Banana"], ["optimizer", "Banana"]),
        ([f"data.path={'a' * 300}.npy"], ["data", "File name too long"]),
        (["data.path=a=b.npy"], ["data.path=a=b.npy", "quotes"]),
    ],
)  # fmt: skip
def test_bad_options_end_in_one_line_and_status_2(command, small_data, arguments, parts):
    small = [s for s in SMALL if s.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    if "network=conv" in arguments:
        small.remove("network.hidden=[16]")
    one_error_line(command("train", *small, small_data, *arguments), *parts)


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (np.full((50, 3), np.nan, np.float32), ["NaN"]),
        (np.full((50, 3), np.inf, np.float32), ["Inf"]),
        (np.zeros((0, 3), np.float32), ["empty"]),
        (np.full((50, 3), 1.5, np.float32), ["likelihood=bernoulli", "[0, 1]", "1.5"]),
        (np.full((50, 3), -1, np.float32), ["likelihood=bernoulli", "[0, 1]", "-1"]),
    ],
)
def test_bad_arrays_end_in_one_line_and_status_2(command, x, parts):
    np.save("x.npy", x)
    one_error_line(command("train", *SMALL, "data.path=x.npy"), *parts)


def test_grey_values_under_a_bernoulli_are_warned_of(command, tmp_path):
    np.save("x.npy", np.random.default_rng(0).random((60, 12)).astype(np.float32))
    outcome = command("train", *SMALL, "data.path=x.npy", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0
    assert outcome.out.count("not a likelihood of these data") == 1
    outcome = command("evaluate", f"run={tmp_path / 'run'}", "estimator=elbo")
    assert "not a likelihood of these data" in outcome.out


def test_an_output_directory_that_cannot_be_made(command, small_data, tmp_path):
    (tmp_path / "file").write_text("")
    one_error_line(command("train", *SMALL, small_data, f"hydra.run.dir={tmp_path / 'file' / 'run'}"), "file")


def test_a_full_disk_keeps_what_was_saved(command, small_data, tmp_path, monkeypatch):
    fsync, run_dir = os.fsync, tmp_path / "run"

    def full(fd):
        if (run_dir / "metrics.csv").exists() and len(metrics.read(run_dir)) == 3:
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    small = [s for s in SMALL if not s.startswith("trainer.max_epochs")]
    outcome = command("train", *small, small_data, "trainer.max_epochs=9", f"hydra.run.dir={tmp_path / 'run'}")
    one_error_line(outcome, "No space left on device")
    monkeypatch.undo()
    assert weights(tmp_path / "run")["state"]["epoch"] == 2
    assert pyro_vae.load(tmp_path / "run").sample(1).shape == (1, 12)


def test_a_run_that_fails_exits_with_1_and_one_line(command, small_data, tmp_path):
    arguments = ["likelihood=gaussian", "optimizer=sgd", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}"]
    outcome = command("train", *SMALL, small_data, *arguments)
    assert outcome.code == 1
    assert outcome.err.startswith("error: the loss is ")
    assert len(outcome.err.strip().splitlines()) == 1


def test_a_bug_of_ours_shows_its_traceback(command, small_data, monkeypatch):
    from pyro_vae.runs import report

    def broken(*args):
        raise KeyError("a bug")

    monkeypatch.setattr(report, "report", broken)
    outcome = command("train", *SMALL, small_data)
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "KeyError: 'a bug'" in outcome.err


def test_full_error_brings_the_traceback_back_and_keeps_the_status(tmp_path):
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
    arguments = [sys.executable, "-m", "pyro_vae.train", "guide=banana"]
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "error: guide=banana is unknown" in done.stderr


def spawn(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "pyro_vae.train", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_checkpoint_and_exits_with_130(command, small_data, tmp_path):
    run_dir = tmp_path / "run"
    small = [s for s in SMALL if not s.startswith("trainer.max_epochs")]
    options = ["trainer.max_epochs=100000", "trainer.compile=false", f"hydra.run.dir={run_dir}"]
    child = spawn(*small, small_data, *options, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints" / "best.pt").exists():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err.strip().splitlines()[-1] == f"interrupted: resume={run_dir} continues from the last epoch's checkpoint"
    assert "Traceback" not in err
    epoch = weights(run_dir)["state"]["epoch"]
    assert epoch >= 1
    done = command("train", f"resume={run_dir}", f"trainer.max_epochs={epoch + 1}")
    assert done.code == 0, done.err
    assert f"resumed after epoch {epoch}" in done.out
    assert [row["epoch"] for row in metrics.read(run_dir)] == list(range(1, epoch + 2))


def test_help_needs_no_torch(command):
    code = (
        "import sys, pyro_vae.train as t; sys.argv[1:] = ['--help']; t.main(); "
        "assert 'torch' not in sys.modules and 'pyro' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "max_epochs=100" in out


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_job_and_exits_with_1(command, small_data, tmp_path):
    arguments = [*SMALL, small_data, "latent_dim=1,0,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    outcome = command("train", "-m", *[a for a in arguments if a != "latent_dim=2"])
    assert outcome.code == 1
    assert "latent_dim=0" in outcome.err
    assert [(tmp_path / "sweep" / str(i) / "results.json").exists() for i in range(3)] == [True, False, True]
    before = (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").read_bytes()
    again = command("train", "-m", *[a for a in arguments if a != "latent_dim=2"], "seed=5")
    one_error_line(again, "already holds a run")
    assert (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").read_bytes() == before


def test_a_run_can_be_evaluated_and_resumed_from_another_folder(command, small_data, tmp_path, monkeypatch):
    relative = "data.path=" + Path(small_data.partition("=")[2]).name
    assert command("train", *SMALL, relative, "hydra.run.dir=run").code == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    outcome = command("evaluate", "run=../run", "estimator=elbo")
    assert outcome.code == 0, outcome.err
    outcome = command("train", "resume=../run", "++trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert [row["epoch"] for row in metrics.read(tmp_path / "run")] == [1, 2, 3]


def test_a_run_whose_data_have_moved_is_resumed(command, small_run, small_data, tmp_path):
    (tmp_path / "binary.npy").rename(tmp_path / "moved.npy")
    resumed = ["train", f"resume={small_run}", "trainer.max_epochs=3"]
    assert command(*resumed, "data.path=moved.npy").code == 0
    saved = checkpoint.load(small_run / "checkpoints" / "last.pt")["config"]
    assert saved["data"]["path"] == str(tmp_path / "moved.npy")
    assert [row["epoch"] for row in metrics.read(small_run)] == [1, 2, 3]
    np.save(tmp_path / "other.npy", np.ones((200, 12), dtype=np.float32))
    one_error_line(command(*resumed, "data.path=other.npy"), "other")
    one_error_line(command(*resumed, "data.root=."), "data.root=.", "have no root")
    one_error_line(command(*resumed, "data.binarize=static"), "data.binarize=static", "the place of its data")


def test_results_are_those_of_the_best_epoch(command, small_data, tmp_path):
    """With a learning rate that rises from 0.01 to 1.5, the last epoch is not the best."""
    small = [s for s in SMALL if not s.startswith(("trainer.max_epochs", "estimator"))]
    rising = ["optimizer.lr=0.01", "scheduler=exponential", "scheduler.gamma=1.3"]
    options = ["trainer.max_epochs=20", *rising, "estimator=elbo", "estimator.num_samples=200"]
    assert command("train", *small, small_data, *options, f"hydra.run.dir={tmp_path / 'run'}").code == 0
    state = weights(tmp_path / "run")["state"]
    assert state["best_epoch"] < 20
    rows = metrics.read(tmp_path / "run")
    assert max(row["val/elbo"] for row in rows) == pytest.approx(state["best_elbo"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert command("evaluate", f"run={tmp_path / 'run'}", "estimator=elbo", "estimator.num_samples=200").code == 0
    again = json.loads((tmp_path / "run" / "evaluations" / "elbo-200.json").read_text())
    assert again["log_px"] == results["log_px"]  # evaluate reads best.pt


def test_best_is_written_before_last(command, small_data, tmp_path, monkeypatch):
    """Cut off between the two, a resumed run must do the epoch again."""
    fsync, best = os.fsync, tmp_path / "run" / "checkpoints" / "best.pt"

    def full(fd):
        if best.exists():
            raise OSError(28, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    assert command("train", *SMALL, small_data, f"hydra.run.dir={tmp_path / 'run'}").code == 2
    monkeypatch.setattr(os, "fsync", fsync)
    assert weights(tmp_path / "run", "best")["state"]["epoch"] == 1
    assert weights(tmp_path / "run", "last")["state"]["epoch"] == 0
    assert command("train", f"resume={tmp_path / 'run'}").code == 0
    assert [row["epoch"] for row in metrics.read(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_any_torch_optimizer_serves_and_can_be_resumed(command, small_data, tmp_path):
    options = ["optimizer._target_=torch.optim.NAdam", f"hydra.run.dir={tmp_path / 'run'}"]
    assert command("train", *SMALL, small_data, *options).code == 0
    outcome = command("train", f"resume={tmp_path / 'run'}", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err


def test_a_cosine_schedule_is_not_stretched(command, small_data, tmp_path):
    assert command("train", *SMALL, small_data, "scheduler=cosine", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    one_error_line(command("train", f"resume={tmp_path / 'run'}", "trainer.max_epochs=9"), "2 epochs", "constant")


def test_the_log_file_is_named_after_the_command(small_run):
    assert "epoch    2" in (small_run / "train.log").read_text()


@pytest.mark.slow
def test_the_quick_start_reaches_what_the_readme_says(tmp_path):
    child = spawn("+experiment=bernoulli", f"hydra.run.dir={tmp_path / 'run'}", cwd=Path(tmp_path))
    _, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert -106 < test["log_px"] < -95
    assert test["elbo"] <= test["log_px"]


def test_a_run_cut_off_before_its_first_checkpoint_starts_anew(command, finished_run, tmp_path):
    """Hydra has written what it was to be."""
    cut = tmp_path / "cut"
    shutil.copytree(finished_run / ".hydra", cut / ".hydra")
    outcome = command("train", f"resume={cut}")
    assert outcome.code == 0, outcome.err
    assert "starts from scratch" in outcome.out
    a, b = weights(finished_run), weights(cut)
    assert all(torch.equal(a["vae"][name], b["vae"][name]) for name in a["vae"])
    (cut / "checkpoints" / "last.pt").unlink()
    (cut / "checkpoints" / "previous.pt").unlink()
    (cut / ".hydra" / "overrides.yaml").unlink()  # config.yaml may be cut off as well
    one_error_line(command("train", f"resume={cut}"), "is not a run")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("epoch,step\n1,many\n")])
def test_a_run_goes_on_without_its_metrics(command, small_run, change):
    change(small_run / "metrics.csv")
    outcome = command("train", f"resume={small_run}", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("left out of figures") == 1
    assert [row["epoch"] for row in metrics.read(small_run)] == [3]
    (small_run / "metrics.csv").unlink()
    (small_run / "plots" / "training.png").unlink()
    outcome = command("train", f"resume={small_run}")  # no epoch is left, and nothing to draw
    assert outcome.code == 0, outcome.err
    assert "training.png is left out" in outcome.out


def test_what_is_no_number_is_refused_before_the_work(command, small_data, tmp_path):
    train = lambda *options: command("train", *SMALL, small_data, *options)  # noqa: E731
    one_error_line(train("optimizer=sgd", "optimizer.nesterov=nan"), "optimizer.nesterov=nan", "finite")
    one_error_line(train("optimizer=sgd", "optimizer.nesterov=3"), "optimizer.nesterov=3", "true or false")
    one_error_line(train("optimizer.betas=[0.9,inf]"), "optimizer.betas.1=inf")
    one_error_line(train("likelihood=gaussian", "likelihood.init_scale=-inf"), "likelihood.init_scale=-inf")
    one_error_line(command("evaluate", "run=.", "estimator.num_samples=inf"), "estimator.num_samples=inf")
    with pytest.raises(pyro_vae.errors.BadInput, match="optimizer.weight_decay=nan"):
        pyro_vae.fit(np.zeros((20, 3)), overrides=["optimizer.weight_decay=nan"])


def test_results_that_are_no_numbers_are_null(tmp_path):
    results.write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1, (2.5, float("-inf"))], "c": {"d": None}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1, [2.5, None]], "c": {"d": None}}


def test_the_last_line_of_a_failed_run_is_in_its_log(command, small_data, tmp_path):
    arguments = ["likelihood=gaussian", "optimizer=sgd", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}"]
    outcome = command("train", *SMALL, small_data, *arguments)
    assert outcome.code == 1
    assert outcome.err.strip() in (tmp_path / "run" / "train.log").read_text()
    assert "error" not in outcome.out


@pytest.mark.parametrize("error", [None, MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(12, "no")])
def test_without_memory_a_run_ends_in_one_line(command, small_data, tmp_path, monkeypatch, error):
    def greedy(*args):
        if error is not None:
            raise error
        torch.empty(10**15)

    monkeypatch.setattr(Trainer, "train_epoch", greedy)
    outcome = command("train", *SMALL, small_data, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.err.startswith("error: out of memory (")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err in (tmp_path / "run" / "train.log").read_text()


def test_paths_at_home(command, small_run, small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["data.path=~/binary.npy", "hydra.run.dir='~/my run'"]
    outcome = command("train", *SMALL, *arguments, "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert weights(tmp_path / "my run")["config"]["data"]["path"] == str(tmp_path / "binary.npy")
    short = ["estimator=elbo", "estimator.num_samples=2"]
    outcome = command("evaluate", "run=~/run", "data.path=~/binary.npy", *short)
    assert outcome.code == 0, outcome.err
    outcome = command("train", "resume=~/run", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert pyro_vae.load("~/run").sample(1).shape == (1, 12)
    with pytest.raises(pyro_vae.errors.BadInput, match="already holds a run"):
        pyro_vae.fit(np.zeros((20, 3)), run_dir="~/run")


def test_resume_takes_trust_as_evaluate_does(command, small_run):
    assert "trust" not in weights(small_run)["config"]
    for name in ("last", "previous", "best"):
        path = small_run / "checkpoints" / f"{name}.pt"
        content = torch.load(path)
        content["config"]["guide"]["_target_"] = "conftest.Mine"
        torch.save(content, path)
    one_error_line(command("train", f"resume={small_run}"), "conftest.Mine", "trust=[conftest.Mine]")
    for trust in ("trust=[conftest.Mine]", "+trust=[conftest.Mine]"):
        outcome = command("train", f"resume={small_run}", trust, "trainer.max_epochs=3")
        assert outcome.code == 0, outcome.err
    assert "trust" not in weights(small_run)["config"]
