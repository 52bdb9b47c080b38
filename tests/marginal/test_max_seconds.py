"""`auto` keeps to its time limit, and says which estimates it did not finish."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Auto, auto, ledger
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.programs import time_limit
from pyro_vae.vae import VAE


@pytest.fixture
def clock(monkeypatch):
    """The seconds on a clock that only tests move, in a list."""
    now = [0.0]
    for module in (auto, ledger, time_limit):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_time_limit_bounds_the_work_and_leaves_statuses_honest(small_vae, clock, monkeypatch):
    """A clock on which the search of each block of 2 datapoints takes 10 s."""
    few = {"num_samples": 200, "num_starts": 4, "compile": False}
    x = torch.bernoulli(torch.full((8, 6), 0.5)).double()
    truth = Auto(**few)(small_vae.model, small_vae.guide, x)
    assert truth.status == ["reliable"] * 8
    search = auto.search

    def slow(*args):
        clock[0] += 10
        return search(*args)

    monkeypatch.setattr(auto, "search", slow)
    evidence = Auto(**few, chunk_size=2 * auto.BLOCK, max_seconds=25)(small_vae.model, small_vae.guide, x)
    assert clock[0] == 30
    assert evidence.stages == ["quadrature"] * 4 + ["guide"] * 4
    assert evidence.status == ["reliable"] * 4 + ["unreliable"] * 4
    assert evidence.extra["seconds"].tolist() == [5.0] * 4 + [0] * 4
    assert evidence.extra["num_draws"].tolist() == [0] * 4 + [auto.NUM_AT_FIRST] * 4  # integrals come from no draws
    assert (evidence.log_px - truth.log_px)[:4].abs().max() < 1e-3
    assert evidence.log_px.isfinite().all()
    assert (evidence.extra["log_px_lower"] <= truth.log_px + 1e-3).all()


@pytest.mark.parametrize(("max_seconds", "stage"), [(40, "guide"), (500, "more samples")])
def test_a_time_limit_ends_long_stages(clock, max_seconds, stage):
    """A clock on which the model takes 1 s: all datapoints are searched at once, and then chains take 1000 s."""

    def model(x):
        clock[0] += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square(), 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))

    estimator = Auto(100, max_seconds=max_seconds, target_se=1e-9, compile=False)
    evidence = estimator(model, guide, torch.tensor([[0.2, 0.1, 0.5, 1.0]]))
    assert clock[0] <= max_seconds + 15  # the checks of the programs and the ELBO are not limited
    assert evidence.stages == [stage]
    assert evidence.log_px.isfinite().all()


@pytest.mark.parametrize(("D", "at_once"), [(2, 64), (50, 64), (200, 8)])
def test_few_datapoints_of_many_dimensions_are_processed_at_once(D, at_once):
    """Otherwise a time limit would pass before the search of the first ones ends."""
    vae = VAE.build([6], D, MLP([4]), StandardNormal, Bernoulli, Diagonal)
    p = Posteriors.of(vae.model, vae.guide, torch.zeros(2, 6), None, compile=False, chunk_size=64 * auto.BLOCK)
    assert p.at_once == at_once


def test_nothing_is_compiled_shortly_before_a_time_limit(as_traced):
    calls = []

    def double(x):
        calls.append(1)
        return 2 * x

    for seconds, num_calls in ((20, 5), (40, 2)):  # else the third call runs the graph
        function = Compiled(double, after=lambda: 15.0)
        calls.clear()
        with time_limit.time_limit(time_limit.time.monotonic() + seconds):
            for _ in range(5):
                function(torch.ones(2))
                next(iter(function._graphs.values())).spent = 15.0
        assert len(calls) == num_calls


@pytest.mark.parametrize("value", [0, -1, "soon"])
def test_a_time_limit_is_positive(value):
    with pytest.raises(BadInput, match=f"max_seconds={value}"):
        Auto(max_seconds=value)
