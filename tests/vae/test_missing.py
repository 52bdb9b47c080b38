"""Missing entries of x, against a linear-Gaussian model whose log p(x_obs) and posterior are known."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from conftest import make_ppca
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch.distributions import MultivariateNormal

from pyro_vae.compilation.elbos import CompiledTrace_ELBO
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, Enumerated, FullCovariance, SemiAmortized
from pyro_vae.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_vae.networks import MLP, Conv
from pyro_vae.objectives import IWAE
from pyro_vae.priors import Categorical as CategoricalPrior
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

OBSERVED = torch.tensor(
    [
        [True, True, False, True, False],
        [False, False, False, True, False],
        [True] * 5,
        [False] * 5,
        [True] * 4 + [False],
    ]
)


@pytest.fixture
def incomplete(double):
    """PPCA with a VAE that accepts NaN, and rows of it with missing entries."""
    complete = make_ppca()
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = VAE.build([5], 2, MLP([8]), StandardNormal, likelihood, FullCovariance, missing=True).double()
    vae.decoder = complete.vae.decoder
    complete.vae = vae
    return complete, torch.where(OBSERVED, complete.evidence.sample((5,)), math.nan)


def log_p_observed(ppca, x):
    """log p(x_obs) of each row, the missing dimensions marginalized."""
    mean, cov = ppca.evidence.mean, ppca.evidence.covariance_matrix
    seen = [~row.isnan() for row in x]
    return torch.stack(
        [
            MultivariateNormal(mean[o], cov[o][:, o]).log_prob(row[o]) if o.any() else torch.zeros(())
            for row, o in zip(x, seen, strict=True)
        ]
    ).double()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("importance", {"num_samples": 20_000}),
        ("refined", {"num_samples": 500}),
        ("auto", {}),
        pytest.param("ais", {"num_samples": 50, "num_temperatures": 100}, marks=pytest.mark.slow),
    ],
)
def test_estimators_agree_with_the_marginal_of_what_is_observed(incomplete, name, settings):
    ppca, x = incomplete
    evidence = ppca.vae.evidence(x, estimator=name, **settings)
    error = (evidence.log_px - log_p_observed(ppca, x)).abs()
    assert (error < 4.5 * evidence.se + 0.02).all()
    assert evidence.log_px[3].abs() < 0.02  # nothing is observed


def test_imputation_has_the_mean_of_the_exact_conditional(incomplete):
    ppca, x = incomplete
    mean, cov = ppca.evidence.mean, ppca.evidence.covariance_matrix
    by_hmc = ppca.vae.impute(x, num_samples=400, mean=True)
    single = ppca.vae.impute(x, method="importance", num_steps=20_000, mean=True)
    draws = ppca.vae.impute(x, method="importance", num_proposals=20_000, num_samples=1000)
    by_gibbs = ppca.vae.impute(x, method="gibbs", num_samples=400, mean=True, num_steps=200)
    assert single.shape == (1, 5, 5)
    assert draws.shape == (1000, 5, 5)
    for n in (0, 1, 3, 4):
        o, m = ~x[n].isnan(), x[n].isnan()
        gain = cov[m][:, o] @ torch.linalg.inv(cov[o][:, o])
        exact, sd = mean[m] + gain @ (x[n][o] - mean[o]), (cov[m][:, m] - gain @ cov[o][:, m]).diagonal().sqrt()
        assert ((single[0, n, m] - exact).abs() < 0.1 * sd).all()
        assert ((by_hmc.mean(0)[n, m] - exact).abs() < 0.25 * sd).all()
        assert ((by_gibbs.mean(0)[n, m] - exact).abs() < 0.25 * sd).all()
        assert ((draws.mean(0)[n, m] - exact).abs() < 0.2 * sd).all()
        assert ((draws.std(0)[n, m] / sd).log().abs() < 0.2).all()
        assert torch.equal(draws[:, n, o], x[n][o].expand(1000, -1))


def test_gradients_are_those_of_plain_torch(incomplete):
    ppca, x = incomplete
    vae, observed = ppca.vae, ~x.isnan()
    torch.manual_seed(0)
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    ours = {name: p.grad.clone() for name, p in vae.named_parameters()}
    vae.zero_grad()
    torch.manual_seed(0)
    given = torch.cat([x.nan_to_num(0.0), observed.double()], -1)
    q = vae.posterior(vae.encoder(given))
    z = q.rsample()
    log_lik = dist.Normal(vae.decoder(z).squeeze(-2), 0.5).log_prob(x.nan_to_num(0.0))
    log_joint = dist.Normal(0.0, 1.0).log_prob(z).sum() + log_lik[observed].sum()
    (q.log_prob(z).sum() - log_joint).backward()
    for name, p in vae.named_parameters():
        assert torch.allclose(ours[name], p.grad, atol=1e-10), name


def test_compiled_equals_eager(incomplete, as_traced):
    ppca, x = incomplete
    for objective in (Trace_ELBO, CompiledTrace_ELBO):
        torch.manual_seed(0)
        elbo = objective()
        losses = [elbo.loss(ppca.vae.model, ppca.vae.guide, x.roll(i, 0)) for i in range(4)]
        if objective is Trace_ELBO:
            eager = losses
    assert losses == pytest.approx(eager, rel=1e-12)


@pytest.mark.parametrize("objective", [TraceMeanField_ELBO, partial(IWAE, 5)])
@pytest.mark.parametrize(
    ("likelihood", "draw"),
    [
        (Gaussian, lambda: 1e6 + torch.randn(30, 4)),
        (StudentT, lambda: torch.randn(30, 4)),
        (Bernoulli, lambda: torch.rand(30, 4).round()),
        (Poisson, lambda: 9 * torch.rand(30, 4).round()),
        (NegativeBinomial, lambda: 9 * torch.rand(30, 4).round()),
        (Beta, lambda: 0.01 + 0.9 * torch.rand(30, 4)),
        (ContinuousBernoulli, lambda: torch.rand(30, 4)),
        (partial(Categorical, num_levels=3), lambda: (2 * torch.rand(30, 4)).round() / 2),
        (partial(DiscretizedLogistic, num_levels=3, num_components=2), lambda: (2 * torch.rand(30, 4)).round() / 2),
    ],
)
def test_every_family_learns_from_what_is_observed(likelihood, draw, objective):
    """The missing values have no effect, and the start is that of the observed ones."""
    x = draw()
    holes = torch.rand(x.shape) < 0.3
    x[holes] = math.nan
    vae = VAE.build([4], 2, MLP([8]), StandardNormal, likelihood, Diagonal, missing=True)
    vae.initialize(x)
    column = x[:, 1][~holes[:, 1]].unsqueeze(1)
    alone = likelihood([1])
    if not isinstance(alone, (Gaussian, StudentT, Poisson, NegativeBinomial, Beta, DiscretizedLogistic)):  # one scale
        alone.initialize_from(column)
        assert torch.allclose(vae.likelihood.offset[:, 1], alone.offset[:, 0], atol=1e-5)
    for of_all, of_one in zip(vae.likelihood.location_and_spread(x), alone.location_and_spread(column), strict=True):
        assert torch.allclose(of_all[1], of_one[0])
    marginals, of_column = vae.likelihood.marginals(x), alone.marginals(column)
    if not isinstance(alone, (Gaussian, StudentT, Categorical, DiscretizedLogistic)):  # which pool dimensions
        assert torch.allclose(marginals.mean[1], of_column.mean[0], rtol=1e-5)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), objective())
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert all(p.isfinite().all() for p in vae.parameters())


def test_images_get_a_channel_for_the_mask():
    for shape in ([8, 8], [3, 8, 8]):
        vae = VAE.build(shape, 2, Conv([4], 8), StandardNormal, Bernoulli, Diagonal, missing=True)
        x = torch.rand(5, *shape).round()
        x[:, ..., 0] = math.nan
        assert vae.encode(x).shape == (5, 2)
        assert not torch.equal(vae.encode(x), vae.encode(x.nan_to_num(0.0)))  # zero is not missing


@pytest.mark.parametrize("guide", [SemiAmortized, Enumerated])
def test_guides_that_evaluate_the_model_see_what_is_observed(guide):
    prior = CategoricalPrior if guide is Enumerated else StandardNormal
    vae = VAE.build([4], 3, MLP([8]), prior, Gaussian, guide, missing=True)
    x = torch.randn(6, 4)
    x[:, 2] = math.nan
    assert vae.log_prob(x, 100, estimator="importance").isfinite().all()


class Dependent(Likelihood):
    discrete = False

    def at(self, u):
        return dist.MultivariateNormal(u.squeeze(-2), torch.eye(u.shape[-1]))


def test_likelihoods_that_do_not_factorize_are_refused():
    with pytest.raises(BadInput, match="likelihood=Dependent does not factorize .* use likelihood=gaussian"):
        VAE.build([4], 2, MLP([8]), StandardNormal, Dependent, Diagonal, missing=True)


def test_infinite_values_and_columns_without_data_are_refused():
    vae = VAE.build([2], 1, MLP([4]), StandardNormal, Gaussian, Diagonal, missing=True)
    with pytest.raises(BadInput, match="x holds infinite values: set missing ones to NaN"):
        vae.log_prob([[math.inf, 0.0]])
    with pytest.raises(BadInput, match=r"1 of the 2 entries .* missing \(NaN\) in all training data.*index \[1\]"):
        vae.initialize(torch.tensor([[0.0, math.nan], [1.0, math.nan]]))


def test_complete_data_change_nothing():
    torch.manual_seed(0)
    vae = VAE.build([4], 2, MLP([8]), StandardNormal, Gaussian, Diagonal)
    assert "fill" not in vae.state_dict()
    assert vae.encoder[1].in_features == 4
