"""Gaps of guides that are far from the posterior, and of guides with several sites."""

import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_ppca

from pyro_vae import analysis
from pyro_vae.distributions import CholeskyNormal, LowRankNormal, MixtureOfNormals
from pyro_vae.guides import Diagonal, InverseAutoregressive
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Exact, Importance
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


def _low_rank(loc, sd):
    return LowRankNormal(loc, 0.3 * sd.unsqueeze(-1), sd.square())


def _mixture(loc, sd):
    loc = torch.stack([loc, loc + 0.5 * sd], dim=-2)
    return MixtureOfNormals(
        dist.Categorical(logits=torch.zeros_like(loc[..., 0])), dist.Normal(loc, sd.unsqueeze(-2)).to_event(1)
    )


FAMILIES = {
    "diagonal": lambda loc, sd: dist.Normal(loc, sd).to_event(1),
    "full_covariance": lambda loc, sd: CholeskyNormal(loc, scale_tril=torch.diag_embed(sd)),
    "low_rank": _low_rank,
    "mixture": _mixture,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_gaps_of_a_guide_far_from_the_posterior_are_the_closed_forms(family):
    """A diagonal family reaches ½ (Σ_i log Λ_ii − log det Λ), with two components less, with all covariances 0."""
    ppca = make_ppca(Diagonal)
    x = ppca.evidence.sample((20,))
    precision = ppca.posterior(x).precision_matrix[0]
    sd, distance = precision.diagonal().rsqrt(), 30

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", FAMILIES[family](ppca.posterior(x).mean + distance * sd, sd.expand(len(x), -1)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = analysis.gaps(ppca.vae.model, guide, x, Exact(), num_steps=100, num_samples=1000)
    diagonal = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    gap = values["approximation_gap"]
    if family == "mixture":
        assert (gap > 0).all()
        assert gap.mean() < 0.6 * diagonal
    else:
        torch.testing.assert_close(gap, torch.full_like(gap, diagonal * (family == "diagonal")), rtol=0, atol=0.1)
    assert (values["amortization_gap"] > 0.4 * distance**2).all()


def _z1_z2_x(slope, scale=1.0, offset=0.0):
    """Return model and guide of z2 ~ N(0, 1), z1 ~ N(z2, ½), x ~ N(z1, ½), where E[z2 | z1] = z1 / 1.5."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, math.sqrt(0.5)))
            pyro.sample("x", dist.Normal(z1, math.sqrt(0.5)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(0.75 * x + offset, scale))
            pyro.sample("z2", dist.Normal(slope * z1 + offset, scale))

    return model, guide


@pytest.mark.parametrize("slope", [1 / 1.5, -1.0])
def test_gaps_of_two_sites_are_those_of_the_slope_between_them(slope):
    """Offsets mend all but the slope c: ½ log(1 + (c − c*)² var(z1 | x) / var(z2 | z1)) nats remain."""
    torch.manual_seed(0)
    x = torch.randn(20, dtype=torch.float64) * math.sqrt(2)
    model, guide = _z1_z2_x(slope, scale=0.2, offset=10.0)
    exact = dist.Normal(torch.zeros_like(x), math.sqrt(2)).log_prob(x)
    values = analysis.gaps(model, guide, x, Importance(10), num_steps=100, num_samples=2000)
    var_z1, var_z2 = 1 / (1 / 1.5 + 1 / 0.5), 1 / (1 + 1 / 0.5)
    expected = 0.5 * math.log(1 + (slope - 1 / 1.5) ** 2 * var_z1 / var_z2)
    gap = exact - values["elbo_best"]
    torch.testing.assert_close(gap, torch.full_like(gap, expected), rtol=0, atol=0.1)
    assert gap.mean().item() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("family", [Diagonal, partial(InverseAutoregressive, hidden=[8])])
def test_gaps_of_a_hierarchical_vae(family):
    vae, x = VAE.build([6], [3, 2], MLP([8]), StandardNormal, Bernoulli, family), torch.rand(4, 6).round()
    values = analysis.gaps(vae.model, vae.guide, x, Importance(2000), num_steps=40)
    assert (values["amortization_gap"] > -0.1).all()
    assert (values["approximation_gap"] > -0.2).all()


def test_a_bound_that_still_rises_is_warned_of():
    """The mode has no curvature, so that only steps from the guide, 60 of its sd away, find the posterior."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Laplace(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((len(x), 1), 60.0), 1.0).to_event(1))

    x = torch.zeros(20)
    with pytest.warns(UserWarning, match="still rises for 100.0 % of datapoints.*raise num_steps=60, e.g. to"):
        analysis.gaps(model, guide, x, Importance(4), num_steps=60)
