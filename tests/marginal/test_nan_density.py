"""Models whose log-density is NaN at some z."""

from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Auto, Sandwich, auto
from pyro_vae.marginal.ladder import ladder


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = torch.where(z > 1, z * float("nan"), z.tanh())
        pyro.sample("x", dist.Normal(loc, 0.5, validate_args=False).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("estimator", [Auto(100), Sandwich(100, num_starts=4, num_warmup=1, num_draws=16)])
def test_a_density_that_is_nan_makes_estimates_unreliable(estimator, monkeypatch):
    monkeypatch.setattr("pyro_vae.marginal.ladder.WIDE", 2)
    monkeypatch.setattr("pyro_vae.marginal.sandwich.LONGER", 1)
    monkeypatch.setattr(auto, "ladder", lambda *settings: ladder(*settings)[:2])  # the searches; others take seconds
    torch.manual_seed(0)
    evidence = estimator(model, guide, torch.tensor([[0.2, 0.1], [0.3, -0.1]]))
    assert evidence.status == ["unreliable", "unreliable"]


def test_a_guide_that_draws_nan_is_rejected_by_name():
    with pytest.raises(BadInput, match="the guide draws NaN at site z: .*NaN in x"):
        Auto(100)(smooth, row_guide, torch.full((2, 2), torch.nan))


@pytest.fixture
def stages(monkeypatch):
    """The number of datapoints in each of the quick stages after the search."""
    seen = []

    def counted(*settings):
        def run(stage, p, proposal):
            seen.append(len(p))
            return stage.run(p, proposal)

        return [replace(stage, run=partial(run, stage)) for stage in ladder(*settings)[:6]]

    monkeypatch.setattr(auto, "ladder", counted)
    return seen


def row_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 1.0).to_event(1))


def smooth(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.tanh(), 0.5, validate_args=False).to_event(1), obs=x)


def impossible(x):
    """Negative x are outside the support."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Exponential(z.exp(), validate_args=False).mask(x > 0).to_event(1), obs=x)
        pyro.factor("positive", torch.where(x > 0, 0.0, -torch.inf).sum(-1))


@pytest.mark.parametrize(("model", "value"), [(smooth, torch.nan), (impossible, -1.0)])
def test_hopeless_rows_stop_after_the_search_and_leave_the_others_as_they_are(stages, model, value):
    x = torch.tensor([[0.2, 0.1], [0.3, 1.1], [value, value]])
    evidence = Auto(1000, compile=False)(model, row_guide, x)
    assert evidence.unreliable.tolist() == [False, False, True]
    assert evidence.log_px.isfinite().tolist() == [True, True, False]
    assert stages == []


def test_other_rows_go_on(stages):
    """The counterpart: a standard error of 0 is never reached."""
    x = torch.tensor([[0.2, 0.1, 0.3, 0.3], [0.3, -0.1, 0.2, 0.0], [torch.nan] * 4])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.tanh(), 0.5, validate_args=False).to_event(1), obs=x)

    Auto(100, compile=False, target_se=1e-9)(model, row_guide, x)
    assert stages
    assert set(stages) == {2}
