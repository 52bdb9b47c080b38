"""`exact` must reject every model that is not linear-Gaussian, and `auto` must then estimate log p(x) otherwise."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Normal

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Auto, Exact


def program(mean):
    """Return a model with z ~ N(0, I), x ~ N(mean(z, x), 1), and a guide."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", Normal(mean(z, x), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(torch.zeros_like(x), 1.0).to_event(1))

    return model, guide


def step(z, x):
    """A step far from the origin: both places have the same curvature."""
    return torch.cat([3 * (z[..., :1] > 2).float(), z[..., 1:]], -1)


def relu(z, x):
    """A decoder whose units are rarely active."""
    return torch.cat([3 * (z[..., :1] - 1.5).relu(), z[..., 1:]], -1)


def last_row(z, x):
    """A decoder which is nonlinear at datapoints with x₁ > 2 only."""
    return torch.where(x[..., :1] > 2, step(z, x), z)


def log_px(mean, x):
    """Integrate over a grid of z, `[N]`."""
    t = torch.linspace(-8, 8, 801)
    z = torch.cartesian_prod(t, t).unsqueeze(1)
    log_p = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(mean(z, x), 1.0).log_prob(x).sum(-1)
    return log_p.double().logsumexp(0) + 2 * math.log(0.02)


@pytest.mark.parametrize("mean", [step, relu, last_row])
def test_piecewise_linear_models_are_not_taken_for_linear_ones(mean):
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 0.5], [0.3, -1.0], [2.5, 0.0]])
    with pytest.raises(BadInput, match="estimator=exact needs a linear-Gaussian model"):
        Exact()(*program(mean), x)
    evidence = Auto(compile=False)(*program(mean), x)
    assert (evidence.log_px - log_px(mean, x)).abs().max() < 0.15


def test_a_quadratic_without_an_integral_is_rejected():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("x", 2 * z.prod(-1))  # the Hessian has eigenvalues 1 and −3

    with pytest.raises(BadInput, match="estimator=exact needs a linear-Gaussian model"):
        Exact()(model, program(step)[1], torch.zeros(3, 2))
