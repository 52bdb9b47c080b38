"""Models whose log-density is NaN at some z."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.marginal import Auto, Sandwich


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = torch.where(z > 1, z * float("nan"), z.tanh())
        pyro.sample("x", dist.Normal(loc, 0.5, validate_args=False).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


@pytest.mark.parametrize("estimator", [Auto(100, max_seconds=1.0), Sandwich(100, num_draws=16)])
def test_a_density_that_is_nan_makes_estimates_unreliable(estimator):
    torch.manual_seed(0)
    evidence = estimator(model, guide, torch.tensor([[0.2, 0.1], [0.3, -0.1]]))
    assert evidence.status == ["unreliable", "unreliable"]


def test_a_row_of_nan_leaves_the_other_rows_as_they_are():
    def row_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0).to_event(1))

    def smooth(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.tanh(), 0.5, validate_args=False).to_event(1), obs=x)

    x = torch.tensor([[0.2, 0.1], [0.3, -0.1], [torch.nan, torch.nan]])
    evidence = Auto(100, max_seconds=0.5, compile=False)(smooth, row_guide, x)
    assert evidence.unreliable.tolist() == [False, False, True]
