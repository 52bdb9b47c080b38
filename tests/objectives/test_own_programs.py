"""Objectives of programs other than the VAE's: masked rows, plates that subsample, Pyro's autoguides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam

from pyro_vae.objectives import IWAE, DReG, Renyi, ReweightedWakeSleep, Trace_ELBO, TraceMeanField_ELBO

EVERY = [Trace_ELBO, TraceMeanField_ELBO, IWAE, Renyi, DReG]


def programs(size, rows=None, mask=True):
    """Return z ~ N(0, 1), x | z ~ N(z, 1) and a guide, for x that are some rows of a data set."""

    def plate():
        return pyro.plate("data", size, subsample=rows, dim=-1)

    def model(x):
        with plate(), pyro.poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0)), 1.0), obs=x)

    def guide(x):
        loc, scale = pyro.param("loc", torch.tensor(0.2)), pyro.param("scale", torch.tensor(1.2))
        with plate(), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(loc * x, scale))

    return model, guide


def test_sites_outside_of_the_plate_do_not_hide_that_it_subsamples():
    model, guide = programs(100, torch.arange(10))

    def with_constant(x):
        pyro.deterministic("c", torch.tensor(1.0))
        model(x)

    x = torch.randn(10)
    (bound, gradient), (other, its_gradient) = (
        bound_and_gradient(IWAE, pair, x) for pair in ((model, guide), (with_constant, guide))
    )
    torch.testing.assert_close(bound.loss, other.loss)
    torch.testing.assert_close(gradient, its_gradient)


def bound_and_gradient(objective, programs, x):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    bound = objective(num_particles=3).bound(*programs, x)
    bound.loss.backward()
    return bound, torch.stack([p.grad for _, p in pyro.get_param_store().named_parameters()])


@pytest.mark.parametrize("objective", EVERY)
def test_masked_rows_count_neither_in_the_loss_nor_in_the_elbo(objective):
    x = torch.tensor([0.5, 50.0, -1.0, 50.0])
    mask = torch.tensor([True, False, True, False])
    bound, gradient = bound_and_gradient(objective, programs(4, mask=mask), x)
    pyro.set_rng_seed(0)
    z = 0.2 * x + 1.2 * torch.randn(3, 4)
    log_likelihood = dist.Normal(z, 1.0).log_prob(x)[:, mask].sum() / 3
    of_prior = (dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.2 * x, 1.2).log_prob(z))[:, mask].sum() / 3
    torch.testing.assert_close(bound.log_likelihood, log_likelihood)
    torch.testing.assert_close(bound.elbo, log_likelihood + of_prior)
    if objective is Trace_ELBO:
        torch.testing.assert_close(-bound.loss.detach(), bound.elbo)
    assert gradient.abs().max() < 50  # a masked row alone would add some thousands


@pytest.mark.parametrize("objective", [*EVERY, ReweightedWakeSleep])
def test_a_subsample_stands_for_the_whole_plate(objective):
    x, rows = torch.randn(10), torch.arange(10)
    alone, gradient = bound_and_gradient(objective, programs(10), x)
    in_plate, its_gradient = bound_and_gradient(objective, programs(100, rows), x)
    torch.testing.assert_close(in_plate.loss, 10 * alone.loss)
    torch.testing.assert_close(its_gradient, 10 * gradient)
    torch.testing.assert_close(in_plate.elbo, alone.elbo)
    pyro.set_rng_seed(0)
    loss = objective(num_particles=3).loss(*programs(100, rows), x)
    assert loss == pytest.approx(in_plate.loss.item(), rel=1e-5)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyros_autoguides_train_to_the_exact_posterior(autoguide, objective):
    x = torch.randn(7) + 2

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.1))  # constrained: its Delta has a log-Jacobian
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale), obs=x)

    guide = autoguide(model)
    ours, pyros = (SVI(model, guide, Adam({"lr": 0.03}), loss) for loss in (objective(200), pyro.infer.Trace_ELBO()))
    first = ours.step(x)
    for _ in range(150):
        ours.step(x)
    exact = -math.inf
    grid = torch.linspace(-0.6, 0.9, 2001).double()  # log of the scale
    with torch.no_grad():
        loc = pyro.param("loc").double()
        joint = dist.Normal(0.0, 0.1).log_prob(grid) + dist.Normal(loc, grid.exp().unsqueeze(-1)).log_prob(x).sum(-1)
        exact = torch.trapezoid(joint.exp(), grid).log().item()
        bounds = torch.tensor([objective(200).bound(model, guide, x)[:2] for _ in range(20)])
        reference = sum(pyros.evaluate_loss(x) for _ in range(400)) / 400
    assert -first < exact
    torch.testing.assert_close(-bounds[:, 0], bounds[:, 1], rtol=1e-4, atol=1e-4)  # elbo is that of the loss
    assert bounds[:, 1].mean().item() == pytest.approx(exact, abs=0.02)
    assert bounds[:, 1].mean().item() == pytest.approx(-reference, abs=0.05)
