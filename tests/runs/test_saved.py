"""`vae.save`: a run directory that others can use."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import one_error_line

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.runs import checkpoint, metrics

X = (np.random.default_rng(0).random((60, 6)) < 0.3).astype(np.float32)
TINY = {"network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 3, "verbose": False}


def test_a_fitted_vae_is_saved_loaded_and_evaluated(command, tmp_path):
    vae = pyro_vae.fit(X, **TINY)
    vae.save(tmp_path / "run")
    loaded = pyro_vae.load(tmp_path / "run")
    assert torch.equal(loaded.encode(X), vae.encode(X))
    assert loaded.history == vae.history
    assert len(loaded.history) == 3
    np.save(tmp_path / "x.npy", X)
    outcome = command("evaluate", "run=run", "data.path=x.npy", "split=val", "estimator=elbo", "plots=false")
    assert outcome.code == 0, outcome.err
    (evaluation,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert json.loads(evaluation.read_text())["num_data"] == 6
    missing = command("evaluate", "run=run", "estimator=elbo")
    suggested = "python -m pyro_vae.evaluate run=run data.path=FILE.npy split=val"
    one_error_line(missing, "data.path is missing", suggested, "vae.log_prob")
    no_test_set = command("evaluate", "run=run", "data.path=x.npy", "estimator=elbo")
    one_error_line(no_test_set, "split=test of run is empty: use split=val")


def test_runs_that_no_command_can_continue_are_refused_clearly(command, tmp_path):
    pyro_vae.fit(X, validation_data=X[:20], **TINY, run_dir=tmp_path / "run")
    np.save(tmp_path / "x.npy", X)
    one_error_line(command("evaluate", "run=run", "data.path=x.npy", "split=val"), "20 datapoints", "vae.log_prob")
    one_error_line(command("train", "resume=run"), "resume=run", "array in memory", "call fit again")


def test_a_run_without_held_out_data_is_evaluated_on_its_training_set(command, tmp_path):
    pyro_vae.fit(X, val_fraction=0, **TINY).save(tmp_path / "run")
    one_error_line(command("evaluate", "run=run"), "data.path=FILE.npy split=train")


def test_a_conditional_vae_is_evaluated_with_labels_from_a_file(command, tmp_path):
    y = np.arange(60) % 3
    pyro_vae.fit(X, y, conditioning="concat", **TINY).save(tmp_path / "run")
    np.savez(tmp_path / "data.npz", x=X, y=y)
    arguments = ["data.path=data.npz", "+data.key=x", "+data.label_key=y", "split=val", "estimator=elbo", "plots=false"]
    outcome = command("evaluate", "run=run", *arguments)
    assert outcome.code == 0, outcome.err
    suggested = "data.path=FILE.npz +data.key=x +data.label_key=y split=val"
    one_error_line(command("evaluate", "run=run"), suggested)


def test_it_is_the_checkpoint_of_the_run_with_the_present_weights(tmp_path):
    vae = pyro_vae.fit(X, **TINY, run_dir=tmp_path / "one")
    vae.save(str(tmp_path / "two"))
    one, two = (checkpoint.load(tmp_path / name / "checkpoints" / "best.pt") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert one["state"] == two["state"]
    assert (tmp_path / "one" / metrics.NAME).read_text() == (tmp_path / "two" / metrics.NAME).read_text()
    with torch.no_grad():
        next(vae.parameters()).add_(1)
    vae.save(tmp_path / "three")
    assert torch.equal(pyro_vae.load(tmp_path / "three", which="last").encode(X), vae.encode(X))


def test_a_loaded_run_is_saved_elsewhere_and_goes_on(command, small_run, tmp_path):
    pyro_vae.load(small_run, which="last").save(tmp_path / "other")
    outcome = command("train", "resume=other", "trainer.max_epochs=3", "estimator=none", "plots=false")
    assert outcome.code == 0, outcome.err
    assert len(pyro_vae.load(tmp_path / "other").history) == 3


def test_copies_can_be_saved_too(tmp_path):
    vae = pyro_vae.fit(X, **TINY)
    for name, other in [("copy", copy.deepcopy(vae)), ("pickled", pickle.loads(pickle.dumps(vae)))]:
        other.save(tmp_path / name)
        assert torch.equal(pyro_vae.load(tmp_path / name).encode(X), vae.encode(X))


def test_saving_overwrites_no_run_and_needs_a_configuration(small_run, small_vae, tmp_path):
    with pytest.raises(BadInput, match="already holds a run"):
        pyro_vae.load(small_run).save(small_run)
    with pytest.raises(BadInput, match="this VAE has no configuration to save.*torch.save.*pyro_vae.fit"):
        small_vae.save(tmp_path / "made")
    assert not (tmp_path / "made").exists()
    with pytest.raises(BadInput, match="run_dir=/dev/null cannot be created"):
        pyro_vae.load(small_run).save("/dev/null")


def test_a_run_without_metrics_has_no_history(small_run, caplog):
    (small_run / metrics.NAME).unlink()
    assert pyro_vae.load(small_run).history == []
    assert not caplog.records
