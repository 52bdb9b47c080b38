"""Runs and imports of versions before the modules were moved."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import assert_same, one_error_line
from omegaconf import OmegaConf

import pyro_vae
from pyro_vae.runs import checkpoint, metrics
from pyro_vae.runs.renamed import MOVED, renamed

OLD = {"trainer": "pyro_vae.trainer.Trainer", "optimizer": "pyro_vae.optim.FusedAdam"}
RUN = Path(__file__).with_name("run_of_0_1")
"""Two epochs of data=digits with latent_dim=2 and network.hidden=[3], by the code of version 0.1.0."""


@pytest.fixture
def old_run(tmp_path):
    return Path(shutil.copytree(RUN, tmp_path / "old_run"))


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_run_of_version_0_1_loads(old_run, which):
    config = torch.load(old_run / "checkpoints" / f"{which}.pt", weights_only=True)["config"]
    assert {group: config[group]["_target_"] for group in OLD} == OLD
    assert pyro_vae.load(old_run, which=which).sample(2).shape == (2, 1, 8, 8)


def test_a_run_of_version_0_1_has_the_same_log_px(command, old_run):
    then = json.loads((old_run / "results.json").read_text())["test"]
    evaluate = command("evaluate", f"run={old_run}", "estimator=importance", "estimator.num_samples=500", "plots=false")
    assert evaluate.code == 0, evaluate.err
    now = json.loads((old_run / "evaluations" / "importance-500.json").read_text())
    assert now["num_data"] == then["num_data"]
    assert now["elbo"] == pytest.approx(then["elbo"], abs=0.05)
    assert now["log_px"] == pytest.approx(then["log_px"], abs=5 * 2**0.5 * then["log_px_mc_se"])


def test_a_run_of_version_0_1_resumes(command, old_run):
    before = metrics.read(old_run)
    resumed = command("train", f"resume={old_run}", "trainer.max_epochs=3", "estimator=none", "plots=false")
    assert resumed.code == 0, resumed.err
    after = metrics.read(old_run)
    assert after[:2] == before
    assert after[2]["val/elbo"] > before[1]["val/elbo"]
    config = torch.load(old_run / "checkpoints" / "last.pt", weights_only=True)["config"]
    assert config["trainer"]["_target_"] == "pyro_vae.training.trainer.Trainer"


def with_old_names(run):
    for name in ("last", "best"):
        path = run / "checkpoints" / f"{name}.pt"
        content = torch.load(path, weights_only=True)
        for group, target in OLD.items():
            assert content["config"][group]["_target_"] != target
            content["config"][group]["_target_"] = target
        torch.save(content, path)


def test_a_checkpoint_of_the_old_names_evaluates_and_resumes(command, small_run, tmp_path):
    new = Path(shutil.copytree(small_run, tmp_path / "new"))
    with_old_names(small_run)
    evaluate = command("evaluate", f"run={small_run}", "estimator=elbo", "estimator.num_samples=5")
    assert evaluate.code == 0, evaluate.err
    for run in (small_run, new):
        resumed = command("train", f"resume={run}", "trainer.max_epochs=3", "estimator=none", "plots=false")
        assert resumed.code == 0, resumed.err
    old, new = (checkpoint.load(run / "checkpoints" / "last.pt") for run in (small_run, new))
    assert old["state"].pop("seconds") != new["state"].pop("seconds")
    old["config"]["data"].pop("path"), new["config"]["data"].pop("path")
    assert_same(old, new)
    assert torch.load(small_run / "checkpoints" / "last.pt")["config"]["trainer"]["_target_"].startswith(
        "pyro_vae.training."
    )


def test_a_run_killed_before_its_first_checkpoint_starts_again(command, small_run, tmp_path):
    path = small_run / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    for group, target in OLD.items():
        config[group]["_target_"] = target
    OmegaConf.save(config, path)
    weights = checkpoint.load(small_run / "checkpoints" / "last.pt")["vae"]
    shutil.rmtree(small_run / "checkpoints")
    resumed = command("train", f"resume={small_run}", "estimator=none", "plots=false")
    assert resumed.code == 0, resumed.err
    assert "starts from scratch" in resumed.out
    assert_same(checkpoint.load(small_run / "checkpoints" / "last.pt")["vae"], weights)


def test_other_targets_are_left_alone_and_nested_ones_translated():
    config = {
        "guide": {"_target_": "mine.Guide", "inner": [{"_target_": "pyro_vae.optim.FusedAdam"}]},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
        "trainer": {"_target_": "pyro_vae.nowhere.Trainer"},
        "seed": 0,
    }
    expected = {**config, "guide": {"_target_": "mine.Guide", "inner": [{"_target_": NEW}]}}
    assert renamed(config) == expected


NEW = "pyro_vae.training.optim.FusedAdam"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trainer.Trainer", "training.trainer"),
        ("trainer.State", "training.trainer"),
        ("optim.FusedAdam", "training.optim"),
        ("optim.JointOptim", "training.optim"),
        ("svi.SVI", "training.svi"),
        ("compiled.CompiledTraceMeanField_ELBO", "compilation.elbos"),
        ("config.compose", "runs.config"),
        ("metrics.read", "runs.metrics"),
        ("experiment.train", "runs.run"),
        ("experiment.restore", "runs.restore"),
        ("experiment.warn_of_misfit", "runs.misfit"),
        ("experiment.build_data", "runs.build"),
        ("experiment.fit", "api"),
        ("checkpoint.Checkpoints", "runs.checkpoint"),
        ("checkpoint.get_rng_state", "programs.random_state"),
        ("guides.cholesky_normal.CholeskyNormal", "distributions.cholesky_normal"),
        ("marginal.weights.log_weights", "programs.log_weights"),
    ],
)
def test_old_imports_give_the_same_objects(old, new):
    module, _, name = old.rpartition(".")
    assert getattr(import_module(f"pyro_vae.{module}"), name) is getattr(import_module(f"pyro_vae.{new}"), name)


@pytest.mark.parametrize("old", MOVED)
def test_every_old_module_can_be_imported(old):
    module = import_module(f"pyro_vae.{old}")
    for home in MOVED[old]:
        name = next(name for name in vars(import_module(f"pyro_vae.{home}")) if name[0] != "_")
        assert hasattr(module, name)
    with pytest.raises(AttributeError, match="banana"):
        _ = module.banana


def test_a_stranger_cannot_use_old_names_for_more(command, small_run):
    with_old_names(small_run)
    path = small_run / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["config"]["trainer"]["_target_"] = "pyro_vae.experiment.train"
    torch.save(content, path)
    one_error_line(command("train", f"resume={small_run}"), "would call pyro_vae.runs.run.train")
