"""Several stochastic layers: p(z2) p(z1 | z2) p(x | z1), q(z1 | x) q(z2 | z1)."""

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal

from pyro_vae.errors import BadInput
from pyro_vae.guides import Categorical as CategoricalGuide
from pyro_vae.guides import Diagonal, FullCovariance, InverseAutoregressive, SemiAmortized
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import AIS, BDMC, ELBO, NUTS, Exact, Importance, Prior, Refined
from pyro_vae.networks import MLP, Conv
from pyro_vae.priors import Categorical, Mixture, StandardNormal, Vamp
from pyro_vae.vae import VAE


def linear(guide=FullCovariance):
    """z2 ~ N(0, I), z1 = A z2 + a + s ε, x = W z1 + b + σ ε: everything in closed form."""
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = VAE.build([5], [3, 2], MLP([], upper_hidden=[]), StandardNormal, likelihood, guide).double()
    layer = vae.layers[0]
    with torch.no_grad():
        layer.conditional.loc_log_scale.weight[3:] = 0  # p(z1 | z2) of constant variance
        layer.conditional.loc_log_scale.bias[3:] = -0.5
        for q in (vae.posterior, layer.posterior):  # broad enough for importance sampling
            q.loc_log_scale.weight.zero_()
            q.loc_log_scale.bias.fill_(0.3)
    return vae


def evidence_of(vae):
    with torch.no_grad():
        head, decoder = vae.layers[0].conditional.loc_log_scale, vae.decoder[0]
        A, a = head.weight[:3], head.bias[:3]
        first = A @ A.T + math.exp(-1.0) * torch.eye(3).double()
        W = decoder.weight
        return MultivariateNormal(W @ a + decoder.bias, W @ first @ W.T + 0.25 * torch.eye(5).double())


def test_the_programs_are_top_down_and_bottom_up():
    vae = VAE.build([6], [4, 3, 2], MLP([16], upper_hidden=[8]), StandardNormal, Bernoulli, Diagonal)
    x = torch.rand(5, 6).round()
    sites = {
        name: [site for site, node in poutine.trace(program).get_trace(x).nodes.items() if node["type"] == "sample"]
        for name, program in (("model", vae.model), ("guide", vae.guide))
    }
    assert sites["model"] == ["data", "z3", "z2", "z1", "x"]
    assert sites["guide"] == ["data", "z1", "z2", "z3"]
    assert vae.encode(x).shape == (5, 4)
    assert vae.decode(torch.zeros(2, 4)).shape == (2, 6)
    assert vae.sample(7).shape == (7, 6)


@pytest.mark.parametrize(
    "estimator",
    [
        Importance(4000),
        Prior(4000),
        Refined(200),
        AIS(32, 15, 4),
        Exact(),
        pytest.param(NUTS(1000, num_draws=150), marks=pytest.mark.slow),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_estimator_finds_the_exact_evidence(estimator):
    vae = linear()
    p_x = evidence_of(vae)
    x = p_x.sample((1 if isinstance(estimator, NUTS) else 30,))
    evidence = estimator(vae.model, vae.guide, x)
    reliable = ~(evidence.pareto_k > 0.7)
    assert reliable.any()
    error = (evidence.log_px - p_x.log_prob(x)).abs()
    assert (error < 4.5 * evidence.se + 1e-4)[reliable].all()


def test_bounds_are_on_the_right_sides():
    vae = linear()
    p_x = evidence_of(vae)
    x = p_x.sample((40,))
    assert ELBO(500)(vae.model, vae.guide, x).log_px.mean() < p_x.log_prob(x).mean()
    evidence = BDMC(16, 8, 2, start="guide")(vae.model, vae.guide, x)
    assert evidence.extra["gap"].mean() > 0


def test_samples_have_the_moments_of_the_model():
    vae, n = linear(), 20_000
    p_x, x = evidence_of(vae), vae.sample(n)
    assert ((x.mean(0) - p_x.mean).abs() < 4.5 * (p_x.variance / n).sqrt()).all()
    assert ((x.var(0) - p_x.variance).abs() < 4.5 * p_x.variance * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("guide", [Diagonal, FullCovariance, InverseAutoregressive])
@pytest.mark.parametrize("prior", [StandardNormal, Mixture])
@pytest.mark.parametrize("network", [MLP([16], upper_hidden=[8]), Conv([3, 4], hidden=8, upper_hidden=[8])])
def test_families_and_networks_combine(guide, prior, network):
    vae = VAE.build([1, 5, 6], [4, 3], network, prior, Bernoulli, guide)
    x = torch.rand(5, 1, 5, 6).round()
    assert vae.log_prob(x, num_samples=7, estimator="importance").isfinite().all()
    pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(
        vae.model, vae.guide, x
    ).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": []}, r"latent_dim=\[\]"),
        ({"latent_dim": [3, 0]}, "latent_dim=0"),
        ({"latent_dim": "abc"}, "latent_dim=abc"),
        ({"guide": SemiAmortized}, "guide=semi_amortized needs"),
        ({"guide": CategoricalGuide, "prior": Categorical}, "is continuous, the guide Categorical is discrete"),
        ({"prior": Categorical}, "prior Categorical .* is discrete, the guide Diagonal is continuous"),
        ({"prior": Vamp}, "prior=vamp needs a guide of x alone"),
    ],
)
def test_what_several_layers_cannot_have(settings, message):
    settings = {"latent_dim": [3, 2], "prior": StandardNormal, "guide": Diagonal} | settings
    with pytest.raises(BadInput, match=message):
        VAE.build([6], network=MLP([16]), likelihood=Bernoulli, **settings)


@pytest.mark.slow
def test_the_command_takes_a_list(command, small_data):
    outcome = command(
        "train", "data=array", small_data, "latent_dim=[4,2]", "network.hidden=[16]", "network.upper_hidden=[8]",
        "trainer.max_epochs=2", "estimator=refined", "estimator.num_samples=20", "hydra.run.dir=run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    for estimator in ("importance", "ais", "elbo"):
        short = ["estimator.num_temperatures=5"] if estimator == "ais" else []
        assert command("evaluate", "run=run", f"estimator={estimator}", "estimator.num_samples=5", *short).code == 0
    assert command("evaluate", "run=run", "analysis=surgery", "num_data=10", "estimator=elbo").code == 0
