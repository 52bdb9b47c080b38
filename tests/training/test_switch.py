"""Compiling in another process, and the step at which a training switches to the compiled code."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.compilation.background import CHILD, Background
from pyro_vae.data import Dataset, Split
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer


@pytest.fixture
def data():
    x = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).double()[torch.arange(100) % 2]
    return Dataset(Split(x[:70]), Split(x[70:90]), Split(x[90:]))


@pytest.fixture
def background(monkeypatch, tmp_path):
    """Compile in the background. Code doubles the loss and gradient of a graph; the process waits for ever."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("pyro_vae.training.switch.in_background", lambda device: True)
    monkeypatch.setattr("pyro_vae.compilation.break_even.COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(
        "pyro_vae.compilation.backend.inductor", lambda graph, *_: lambda *x: [2 * r for r in graph(*x)]
    )
    monkeypatch.setattr("pyro_vae.compilation.background.CHILD", "input()")


@pytest.fixture
def ready_after(background, monkeypatch):
    """Let the code be ready after a number of steps, without a process and a cache."""
    left = [0]

    def has_ended(self):
        left[0] -= 1
        return left[0] == 0

    monkeypatch.setattr(Background, "start", lambda self: None)
    monkeypatch.setattr(Background, "stop", lambda self: None)
    monkeypatch.setattr(Background, "asks", lambda self: False)
    monkeypatch.setattr(Background, "has_ended", has_ended)
    monkeypatch.setattr(Background, "is_cached", lambda self: False)
    return lambda steps: left.__setitem__(0, steps)


def train(vae, data, epochs, state=None, optim=None, compile="background", error=None):
    optim, state, rows = optim or JointOptim(partial(torch.optim.Adam, lr=0.01)), state or State(), []

    def on_epoch(row, best):
        rows.append({**row, "seconds": 0})
        if error:
            raise error

    Trainer(batch_size=20, max_epochs=epochs, compile=compile).fit(
        vae, data, TraceMeanField_ELBO(), optim, state, on_epoch
    )
    return rows, state, optim


def test_steps_before_the_switch_are_eager_ones_and_those_after_it_compiled(small_vae, data, ready_after, caplog):
    twin = deepcopy(small_vae)
    ready_after(8)  # at the end of the second epoch of 4 steps
    with caplog.at_level("INFO"):
        torch.manual_seed(3)
        rows, state, _ = train(small_vae, data, 3)
    torch.manual_seed(3)
    eager, _, _ = train(twin, data, 3, compile=False)
    assert (state.compiled, state.compiled_at) == (True, 8)
    assert rows[0] == eager[0]
    assert rows[1]["train/elbo"] == eager[1]["train/elbo"]
    assert rows[1]["val/elbo"] == 2 * eager[1]["val/elbo"]  # compiled
    assert "step 9 is the first compiled one" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [1, 2, 3])
def test_a_run_resumed_before_or_after_the_switch_is_the_same(small_vae, data, ready_after, interrupted):
    twin = deepcopy(small_vae)
    ready_after(6)  # in the second epoch
    torch.manual_seed(3)
    expected, state, _ = train(small_vae, data, 4)
    ready_after(6)
    torch.manual_seed(3)
    rows, again, optim = train(twin, data, interrupted)
    resumed = JointOptim(partial(torch.optim.Adam, lr=0.01))
    resumed.set_state(optim.get_state())
    again = State.of(asdict(again), Path("last.pt"))
    assert again.compiled_at == (None if interrupted == 1 else 6)
    more, again, _ = train(twin, data, 4, again, resumed)
    assert rows + more == expected
    assert again.compiled_at == state.compiled_at == 6
    for one, other in zip(twin.parameters(), small_vae.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_of_earlier_versions_were_compiled_from_the_start():
    saved = asdict(State(compiled=True, step=8))
    del saved["compiled_at"]
    assert State.of(saved, Path("last.pt")).compiled_at == 0
    del saved["compiled"]
    assert State.of(saved, Path("last.pt")).compiled_at is None


def test_a_second_training_of_the_same_graphs_is_compiled_from_the_start(small_vae, data, background, monkeypatch):
    twin = deepcopy(small_vae)
    with monkeypatch.context() as patch:
        patch.setattr(Background, "asks", lambda self: False)
        patch.setattr(Background, "has_ended", lambda self: True)
        assert train(small_vae, data, 1)[1].compiled_at == 1
    assert train(twin, data, 1)[1].compiled_at == 0


def test_a_line_says_why_steps_wait_for_the_compiler(small_vae, data, background, monkeypatch, caplog):
    monkeypatch.setattr("pyro_vae.training.switch.in_background", lambda device: False)
    with caplog.at_level("INFO"):
        assert train(small_vae, data, 1)[1].compiled_at == 0
    assert "background needs a CPU with two cores and a single process" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_training_that_is_left_ends_the_process(small_vae, data, background, monkeypatch, error):
    started, start = [], Background.start
    monkeypatch.setattr(Background, "start", lambda self: (start(self), started.append(self._process)))
    with pytest.raises(error):
        train(small_vae, data, 2, error=error())
    assert started[0].returncode is not None  # and it has been waited for


@pytest.mark.slow
def test_a_process_without_a_parent_ends():
    ended = subprocess.run([sys.executable, "-c", CHILD, *sys.path], input=b"", capture_output=True, timeout=60)
    assert ended.returncode == 1


@pytest.mark.parametrize("fails", ["trace", "compile"])
def test_a_program_that_cannot_be_compiled_runs_eagerly(small_vae, data, ready_after, monkeypatch, fails):
    def fail(*args):
        raise NotImplementedError("this operation")

    twin = deepcopy(small_vae)
    name = {"trace": "graph.make_fx", "compile": "backend.inductor"}[fails]
    monkeypatch.setattr(f"pyro_vae.compilation.{name}", fail)
    ready_after(6)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="not compiled: .*this operation"):
        rows, _, _ = train(small_vae, data, 3)
    torch.manual_seed(3)
    assert rows == train(twin, data, 3, compile=False)[0]
