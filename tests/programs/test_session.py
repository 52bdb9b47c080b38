"""Whatever the caller's session is, our calls compute the same, and leave it as it was."""

import os
import random
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine import runtime

import pyro_vae
from pyro_vae import analysis
from pyro_vae.compilation import graph
from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, Auto, Importance, Refined
from pyro_vae.programs import session

QUICK = {"latent_dim": 2, "max_epochs": 2, "overrides": ["network.hidden=[8]"]}
X = (np.random.default_rng(0).random((60, 12)) < 0.3).astype(np.float32)


@contextmanager
def changed(change, value, default):
    change(value)
    try:
        yield
    finally:
        change(default)


# several at a time: fewer tests
SESSIONS = {
    "half": [
        partial(torch.autocast, "cpu", torch.bfloat16),
        lambda: changed(torch.set_default_dtype, torch.bfloat16, torch.float32),
        lambda: changed(torch.set_default_device, "meta", None),
    ],
    "double": [
        lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: torch.device("meta"),
        torch.autograd.detect_anomaly,
        torch.inference_mode,
    ],
    "handlers": [
        lambda: pyro.plate("data", 3, dim=-1),
        lambda: poutine.scale(scale=3.0),
        lambda: poutine.condition(data={"z": torch.zeros(2)}),
    ],
    "mask": [lambda: poutine.mask(mask=False), lambda: pyro.validation_enabled(False)],
    "block": [poutine.block],
}


def use(vae):
    """What users ask of a VAE: a number of each."""
    x = torch.tensor(X[:4], device="cpu")
    torch.manual_seed(0)
    return {
        "encode": vae.encode(x),
        "reconstruct": vae.reconstruct(x),
        "sample": vae.sample(3),
        "log_prob": vae.log_prob(x, num_samples=20, estimator="importance"),
        "impute": vae.impute(x, x > 0, num_steps=2),
        "importance": Importance(20)(vae.model, vae.guide, x).log_px,
        "refined": Refined(20)(vae.model, vae.guide, x).log_px,
        "auto": Auto(100, num_starts=4)(vae.model, vae.guide, x).log_px,
        "ais": AIS(2, num_temperatures=3)(vae.model, vae.guide, x).log_px,
        "gaps": analysis.gaps(vae.model, vae.guide, x, Importance(5), num_steps=2, num_samples=2)["elbo_best"],
        "surgery": torch.tensor(analysis.surgery(vae.model, vae.guide, x)["elbo"], dtype=torch.float64, device="cpu"),
    }


@pytest.fixture(scope="module")
def fitted():
    return pyro_vae.fit(X, **QUICK)


@pytest.fixture(scope="module")
def used(fitted):
    return use(fitted)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unreliable", "ignore:Anomaly")
@pytest.mark.parametrize("name", SESSIONS)
def test_results_do_not_depend_on_the_callers_session(name, fitted, used, small_run):
    expected = pyro_vae.load(small_run)
    with ExitStack() as stack:
        for context in SESSIONS[name]:
            stack.enter_context(context())
        handlers, dtype = list(runtime._PYRO_STACK), torch.get_default_dtype()
        state = pyro_vae.fit(X, **QUICK).state_dict()
        loaded = pyro_vae.load(small_run)
        now = use(fitted)
        assert handlers == runtime._PYRO_STACK
        assert torch.get_default_dtype() == dtype
        assert torch.is_autocast_enabled("cpu") == (name == "half")
    assert_same(fitted.state_dict(), state)
    assert_same(expected.state_dict(), loaded.state_dict())
    assert_same(used, now)


def test_a_model_in_double_is_run_in_double():
    vae = pyro_vae.fit(X, **QUICK).double()
    x = torch.tensor(X[:4]).double()
    assert vae.encode(x).dtype == vae.sample(2).dtype == torch.float64
    with pytest.warns(UserWarning, match="unreliable"):
        assert vae.log_prob(x, num_samples=5, estimator="importance").isfinite().all()


def test_an_exception_leaves_the_session_as_it_was():
    before = generators()
    with poutine.scale(scale=2.0), torch.autocast("cpu", torch.bfloat16):
        handlers = list(runtime._PYRO_STACK)
        with pytest.raises(BadInput, match="lr=-1.0 must be at least 0"):  # after seeding
            pyro_vae.fit(X, **QUICK, lr=-1.0)
        assert handlers == runtime._PYRO_STACK
        assert torch.is_autocast_enabled("cpu")
    assert generators() == before


def test_programs_of_the_callers_keep_the_default_dtype_and_their_own_handlers(double):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x / 2, torch.full_like(x, 0.5**0.5)))
            assert z.dtype == torch.float64

    x = torch.tensor([0.3, 1.0])
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)  # the guide is the posterior
    torch.testing.assert_close(Importance(5)(model, guide, x).log_px, exact)
    with pyro.plate("outer", 2, dim=-1), poutine.scale(scale=2.0):
        torch.testing.assert_close(Importance(5)(model, guide, x).log_px, exact)
    with pytest.raises(BadInput, match="site z of the model is scaled by 2"):
        Importance(5)(poutine.scale(model, scale=2.0), guide, x)


def generators():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.initial_seed()


def test_fit_and_load_leave_all_generators_alone(small_run):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = generators()
    pyro_vae.fit(X, **QUICK)
    pyro_vae.load(small_run)
    assert generators() == before
    assert len({tuple(np.random.choice(60, 60)) for _ in range(3) if pyro_vae.fit(X, **QUICK)}) == 3


def test_gpus_not_in_use_yet_start_from_the_callers_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(3)
    pyro_vae.fit(X, **QUICK)
    assert seeds[-1] == 3


def in_two_threads(*functions):
    """What each returned, in the order in which they came to an end; their first error is raised."""
    results, errors = [], []

    def run(function):
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_fits_in_two_threads_are_those_of_one(fitted):
    for vae in in_two_threads(*[lambda: pyro_vae.fit(X, **QUICK)] * 2):
        assert_same(fitted.state_dict(), vae.state_dict())
    assert not list(pyro.get_param_store())


@pytest.mark.filterwarnings("ignore:.*unreliable")
def test_calls_in_two_threads_are_those_of_one(fitted):
    x, n = torch.tensor(X[:4]), 2
    calls = {
        "log_prob": lambda: fitted.log_prob(x, num_samples=20, estimator="importance"),
        "impute": lambda: fitted.impute(x, x > 0, num_steps=2),
        "encode": lambda: fitted.encode(x),
    }
    for call in calls.values():
        torch.manual_seed(0)
        expected = [call().sum().item() for _ in range(2 * n)]
        torch.manual_seed(0)
        both = in_two_threads(*[lambda call=call: [call().sum().item() for _ in range(n)]] * 2)
        assert sorted(both[0] + both[1]) == sorted(expected)


@contextmanager
def held_elsewhere():
    """Another thread is within a call."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with session.undisturbed():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_checks_are_switched_off_by_one_thread_at_a_time():
    """Two at once: the second to leave would restore the first's `Distribution.__init__` without checks."""
    before = torch.distributions.Distribution.__init__
    entered = threading.Event()

    def trace():
        with graph._unchecked():
            entered.set()

    thread = threading.Thread(target=trace)
    with graph._unchecked(), session.undisturbed():  # a thread may do both, in any order
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set()
    assert torch.distributions.Distribution.__init__ is before


@pytest.fixture
def ctrl_c():
    """Python's own handler, which a process started in the background (`&`) lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_waiting_for_another_thread_can_be_interrupted(fitted):
    timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
    with held_elsewhere():
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fitted.encode(X)
        assert time.monotonic() - started < 5
    assert fitted.encode(X).shape == (60, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_does_not_wait_for_threads_it_does_not_have(fitted):
    with held_elsewhere():
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # should it wait
            os._exit(0 if session._lock.acquire(timeout=5) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_fit_leaves_no_gradients(fitted):
    assert all(parameter.grad is None for parameter in fitted.parameters())
