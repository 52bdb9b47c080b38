"""What does not fit into memory is refused, or ends in one line: in Python as in the commands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import analysis
from pyro_vae.errors import BadInput, FailedRun
from pyro_vae.errors.memory import OutOfMemory, out_of_memory
from pyro_vae.marginal import Importance
from pyro_vae.programs.session import by_default, for_programs
from pyro_vae.runs import archive
from pyro_vae.training.trainer import torch_device

X = np.tile(np.eye(6, dtype=np.float32), (5, 1))
ERRORS = [MemoryError(), RuntimeError("CUDA error: out of memory"), OSError(12, "no"), torch.OutOfMemoryError("of GPU")]


def impossible(*args, **kwargs):
    torch.empty(10**15, dtype=torch.float32)


def test_draws_beyond_memory_are_refused_before_the_work(small_vae, monkeypatch):
    monkeypatch.setattr("pyro_vae.errors.memory.physical_memory", lambda: 2.0**20)
    x = torch.from_numpy(X)
    programs = small_vae.model, small_vae.guide
    calls = {
        "n=20000 takes": [lambda: small_vae.sample(20_000), lambda: small_vae.sample(20_000, mean=True)],
        "n=50000 takes": [lambda: small_vae.sample_z(50_000)],
        "num_samples=20000 takes": [
            lambda: small_vae.impute(X, num_samples=20_000),
            lambda: analysis.surgery(*programs, x.double(), num_samples=20_000),
            lambda: analysis.gaps(*programs, x.double(), Importance(4), num_samples=20_000),
        ],
        r"the mean of z \[20000, 2\] takes": [lambda: small_vae.decode(np.zeros((20_000, 2)))],
    }
    monkeypatch.setattr("pyro_vae.vae.methods.by_rows", impossible)
    monkeypatch.setattr("pyro_vae.analysis.imputation.chain", impossible)
    for message, several in calls.items():
        for call in several:
            with pytest.raises(BadInput, match=f"^{message} 0.0 GiB: too much .* use fewer at a time") as caught:
                call()
            assert not isinstance(caught.value, OutOfMemory)


def test_draws_that_fit_are_made(small_vae, monkeypatch):
    monkeypatch.setattr("pyro_vae.errors.memory.physical_memory", lambda: 2.0**20)
    assert small_vae.sample(10_000).shape == (10_000, 6)
    assert small_vae.decode(small_vae.sample_z(10_000)).shape == (10_000, 6)


@pytest.mark.parametrize("error", [None, *ERRORS], ids=repr)
def test_methods_without_memory_end_in_one_line(small_vae, monkeypatch, error):
    def greedy(*args, **kwargs):
        if error is not None:
            raise error
        impossible()

    monkeypatch.setattr(small_vae.likelihood, "forward", greedy)
    x = torch.from_numpy(X).double()
    for call in (
        lambda: small_vae.sample(3),
        lambda: small_vae.reconstruct(X),
        lambda: small_vae.log_prob(X, 5, estimator="importance"),
        lambda: small_vae.impute(X),
        lambda: Importance(5)(small_vae.model, small_vae.guide, x),
        lambda: analysis.surgery(small_vae.model, small_vae.guide, x),
    ):
        with pytest.raises(OutOfMemory, match=r"^out of memory \(.*\): use fewer datapoints or samples") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert error is not None or "3725290.3 GiB asked for, this machine has" in str(caught.value)


def test_fit_without_memory_ends_in_one_line(monkeypatch):
    with pytest.raises(OutOfMemory, match="3725.3 GiB asked for, .* smaller batch_size, network"):
        pyro_vae.fit(X, latent_dim=2, overrides=["network.hidden=[1000000,1000000]"])
    monkeypatch.setattr("pyro_vae.training.trainer.Trainer.train_epoch", impossible)
    with pytest.raises(OutOfMemory, match="out of memory"):
        pyro_vae.fit(X, latent_dim=2, overrides=["network.hidden=[4]"])


def test_a_checkpoint_that_memory_does_not_hold_is_not_called_damaged(small_run, monkeypatch):
    monkeypatch.setattr(archive, "read", impossible)
    with pytest.raises(OutOfMemory, match="^out of memory"):
        pyro_vae.load(small_run)
    monkeypatch.undo()
    monkeypatch.setattr("pyro_vae.runs.restore.build_vae", impossible)
    with pytest.raises(OutOfMemory, match="^out of memory"):  # trusted classes have no memory limit
        pyro_vae.load(small_run, trust=["a.B"])


def test_other_errors_are_left_as_they_are():
    for error in (RuntimeError("shapes differ"), BadInput("x"), FailedRun("NaN"), KeyboardInterrupt()):
        for context in (by_default, lambda: for_programs(torch.zeros(1))):
            with pytest.raises(type(error)) as caught, context():
                raise error
            assert caught.value is error
    assert out_of_memory(RuntimeError("shapes differ")) is None


def test_commands_have_the_same_line_and_end_with_1(command, small_run, monkeypatch):
    monkeypatch.setattr(archive, "read", impossible)
    outcome = command("evaluate", f"run={small_run}")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith("error: out of memory (3725290.3 GiB asked for, this machine has")
    monkeypatch.undo()
    monkeypatch.setattr("pyro_vae.vae.methods.by_rows", impossible)  # not weights that are too large
    outcome = command("evaluate", f"run={small_run}")
    assert outcome.code == 1
    assert outcome.err.startswith("error: out of memory")


def test_a_full_gpu_is_not_a_missing_one(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr("pyro_vae.training.trainer.torch.zeros", full)
    with pytest.raises(OutOfMemory, match=r"^out of memory \(CUDA out of memory. Tried to allocate 2.00 MiB.\)"):
        torch_device("cpu")
