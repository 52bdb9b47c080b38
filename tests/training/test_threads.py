"""The number of threads: all, or one if they would wait for another process."""

import os
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.data import Dataset, Split
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.training import threads
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """A machine with two cores, whose user has not set the number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def step(seconds_of_two):
    """A step that takes 2 ms with one thread."""
    return lambda: time.sleep(0.002 if torch.get_num_threads() == 1 else seconds_of_two)


@pytest.mark.parametrize(("seconds", "chosen"), [(0.001, 2), (0.0022, 2), (0.02, 1)])
def test_takes_one_thread_if_all_are_much_slower(seconds, chosen, caplog):
    state = State()
    with caplog.at_level("INFO"), threads.using(None):
        threads.settle(step(seconds), state)
        assert state.threads == torch.get_num_threads() == chosen
    assert torch.get_num_threads() == 2
    assert f"using {chosen} of 2 threads" in caplog.text
    assert "OMP_NUM_THREADS" in caplog.text


def test_a_short_disturbance_does_not_count():
    state, slow = State(), iter([0.001, 0.001, 0.1])  # the first turn with all threads
    threads.settle(lambda: time.sleep(next(slow, 0.002) if torch.get_num_threads() == 2 else 0.002), state)
    assert state.threads == 2


def test_does_not_measure_long_steps_with_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "LONG", 0.001)
    numbers = []
    state = State()
    threads.settle(lambda: numbers.append(torch.get_num_threads()) or time.sleep(0.002), state)
    assert numbers == [2]
    assert state.threads == 2


@pytest.mark.parametrize("how", ["OMP_NUM_THREADS", "set_num_threads", "resumed"])
def test_keeps_what_has_been_set(how, monkeypatch):
    state = State(compiled=True if how == "resumed" else None)
    if how == "OMP_NUM_THREADS":
        monkeypatch.setenv(how, "2")
    elif how == "set_num_threads":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    threads.settle(step(0.02), state)
    assert state.threads is None
    assert torch.get_num_threads() == 2


def test_a_resumed_run_keeps_the_number_unless_the_user_sets_another(monkeypatch):
    state = State.of(asdict(State(compiled=True, threads=1)), Path("last.pt"))
    with threads.using(state.threads):
        assert torch.get_num_threads() == 1
    with threads.using(64):  # chosen on a larger machine
        assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads.using(state.threads):
        assert torch.get_num_threads() == 2


def train(vae, state):
    """Return the number of threads in each epoch."""
    x = (torch.arange(60).reshape(10, 6) % 3 == 0).double()
    data, optim, numbers = Dataset(Split(x), Split(x), Split(x)), JointOptim(partial(torch.optim.Adam, lr=0.01)), []
    Trainer(max_epochs=2, compile=False).fit(
        vae, data, TraceMeanField_ELBO(), optim, state,
        on_epoch=lambda *_: numbers.append(torch.get_num_threads()),
        on_start=lambda: numbers.append(state.threads),
    )  # fmt: skip
    return numbers


def test_training_uses_the_number_throughout(small_vae, monkeypatch):
    monkeypatch.setattr(threads, "GAIN", 0.0)
    assert train(small_vae, State()) == [1, 1, 1]  # in the first checkpoint, too
    assert torch.get_num_threads() == 2


def test_a_resumed_training_uses_its_number(small_vae):
    assert train(small_vae, State(compiled=False, threads=1)) == [1, 1]
