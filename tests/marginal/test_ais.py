"""AIS and BDMC with a mass matrix from the Laplace approximation, against closed forms and a grid."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.marginal import AIS, BDMC
from pyro_vae.marginal.ais import Start
from pyro_vae.marginal.hmc import scale_between
from pyro_vae.marginal.laplace import laplace
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.programs.density import Latents, density_and_grad


def linear(D, condition):
    """z ~ N(0, I), x ~ N(W z, I), where the posterior's covariance has this condition number; and p(x)."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(D, D, generator=generator).double())[0] for _ in range(2))
    W = (left * torch.logspace(-2, 0.5 * math.log10(condition), D).double()) @ right
    eye = torch.eye(D).double()
    spread = (eye + W.mT @ W).diagonal().rsqrt()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W.mT.to(x), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            loc = (torch.linalg.solve(eye + W.mT @ W, W.mT) @ x.double().mT).mT
            pyro.sample("z", dist.Normal(loc.to(x), spread.to(x)).to_event(1))

    return model, guide, MultivariateNormal(eye[0] * 0, W @ W.mT + eye)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_a_posterior_of_condition_1e4_in_100_dimensions(dtype):
    """With the identity as mass matrix the estimates were 40 nats too low."""
    torch.manual_seed(0)
    model, guide, evidence = linear(100, 1e4)
    x = evidence.sample((2,)).to(dtype)
    estimate = AIS(num_temperatures=30)(model, guide, x)
    error = estimate.log_px - evidence.log_prob(x.double())
    assert (error.abs() < 4.5 * estimate.se).all()
    assert (estimate.se < 0.5).all()


def banana(sigma):
    """z ~ N(0, I₂), x ~ N(z₂ − z₁², σ²): the posterior lies along a parabola."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z[..., 1] - z[..., 0] ** 2).unsqueeze(-1), sigma).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))

    return model, guide


def evidence_of_banana(x, sigma):
    """Integrate over z₂ exactly, over z₁ on a grid."""
    z = torch.linspace(-8, 8, 100_001).double()
    integrand = dist.Normal(-z.square(), math.hypot(1, sigma)).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z)
    return integrand.logsumexp(-1) + math.log(z[1] - z[0])


@pytest.mark.parametrize(
    ("sigma", "num_temperatures", "start"),
    [(0.5, 20, "auto"), (0.5, 20, "prior"), pytest.param(0.05, 300, "prior", marks=pytest.mark.slow)],
)
def test_bounds_of_a_banana_bracket_the_truth(sigma, num_temperatures, start):
    torch.manual_seed(0)
    model, guide = banana(sigma)
    bdmc, x = BDMC(num_temperatures=num_temperatures, start=start), torch.zeros(30, 1).double()
    simulated = []

    def remembered(x):
        simulated.append(x)
        return guide(x)

    evidence = bdmc.estimate(model, remembered, x, None, lambda done: None)
    truth = evidence_of_banana(simulated[0], sigma)
    below, above = truth - evidence.log_px, evidence.extra["log_px_upper"] - truth
    for gap in (below, above):
        assert gap.mean() > -4.5 * gap.std() / math.sqrt(30)
        assert gap.mean() < 0.5


def test_any_distribution_can_be_the_start():
    """From the posterior itself, all weights are p(x)."""
    torch.manual_seed(0)
    model, _, evidence = linear(4, 100)
    x = evidence.sample((5,))
    latents = Latents.of(model, x)
    joint = partial(density_and_grad, latents, model, x, None)
    loc, scale_tril = laplace(latents.log_density(model, x), torch.zeros(5, 4).double(), torch.ones(5, 4).double())
    posterior = Mixture.single(loc, scale_tril, math.inf)
    estimate = AIS(4, 5).run(Start.at(posterior, scale_tril), joint, 5, lambda done: None)
    torch.testing.assert_close(estimate.log_px, evidence.log_prob(x))
    torch.testing.assert_close(estimate.ess, torch.full((5,), 4.0).double())


def test_auto_finds_a_mode_that_the_guide_knows():
    """z ~ N(±3, 0.1²), and data that hardly tell which: the search ends in one mode, and log 2 would be missing."""

    def program(x, observed):
        with pyro.plate("data", len(x), dim=-1):
            modes = dist.Normal(x.new_tensor([-3.0, 3.0]), 0.1)
            mixture = dist.MixtureSameFamily(dist.Categorical(logits=x.new_zeros(2)), modes)
            z = pyro.sample("z", mixture.expand([len(x)]))
            if observed:
                pyro.sample("x", dist.Normal(0.1 * z, 1.0), obs=x)

    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 50).double()
    both = torch.stack([dist.Normal(m, math.hypot(1, 0.01)).log_prob(x) for m in (-0.3, 0.3)])
    estimate = AIS(100, 10)(partial(program, observed=True), partial(program, observed=False), x)
    error = (estimate.log_px - both.logsumexp(0) + math.log(2)).exp() - 1
    assert abs(error.mean()) < 4.5 * error.std() / math.sqrt(50)
    assert error.abs().max() < 0.9


def test_the_mass_matrix_interpolates_the_precisions_of_both_ends():
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(3, 4, generator=generator).double() + 0.1
    factor = torch.randn(3, 4, 9, generator=generator).double()
    scale_tril = torch.linalg.cholesky(factor @ factor.mT)
    for beta in (0.0, 0.3, 1.0):
        L = scale_between(scale, scale_tril)(torch.tensor(beta))
        precision = (1 - beta) * torch.diag_embed(scale.pow(-2)) + beta * torch.cholesky_inverse(scale_tril)
        torch.testing.assert_close(torch.linalg.inv(L @ L.mT), precision)
