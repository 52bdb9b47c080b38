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
