"""Anomaly scores of models whose log p(x), best ELBO and expected log-likelihoods are known."""

import math
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_ppca
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.analysis.anomaly import Measures, compare, measure, tail_probability
from pyro_vae.errors import BadInput
from pyro_vae.guides import Categorical, Diagonal
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import BDMC, Exact, Importance, LogEvidence
from pyro_vae.networks import MLP
from pyro_vae.priors import Categorical as CategoricalPrior
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


def test_scores_of_a_linear_gaussian_model_are_the_closed_forms():
    """The best diagonal q has the posterior's mean m and variances 1 / Λ_ii."""
    ppca = make_ppca(Diagonal)
    x, held_out = ppca.evidence.sample((20,)), ppca.evidence.sample((30,))
    posterior = ppca.posterior(x)
    sd = posterior.precision_matrix[0].diagonal().rsqrt()

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(ppca.posterior(x).mean + 2 * sd, 1.5 * sd).to_event(1))

    measured = partial(measure, ppca.vae.model, guide, num_steps=60, num_samples=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compare(measured(x, Exact()), measured(held_out, Exact(), num_steps=1))
    best = MultivariateNormal(posterior.mean, torch.diag(sd**2))
    log_px = ppca.evidence.log_prob(x)
    elbo_best = log_px - kl_divergence(best, posterior)
    elbo = log_px - kl_divergence(MultivariateNormal(posterior.mean + 2 * sd, torch.diag((1.5 * sd) ** 2)), posterior)
    close = partial(torch.testing.assert_close, rtol=0)
    close(scores.log_px, log_px, atol=1e-6)
    close(scores.elbo_best, elbo_best, atol=0.05)
    close(scores.regret, elbo_best - elbo, atol=0.5)
    assert (scores.regret > 3).all()
    variance = (ppca.W @ torch.diag(sd**2) @ ppca.W.T).diagonal()
    squares = (x - ppca.b - posterior.mean @ ppca.W.T) ** 2 + variance
    expected = -0.5 * math.log(2 * math.pi * ppca.sigma**2) - squares / (2 * ppca.sigma**2)
    close(scores.contributions, expected, atol=0.15)
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    close(scores.contributions.sum(1), elbo_best + kl_divergence(best, prior), atol=0.3)


def test_tail_probabilities_of_data_from_the_model_are_uniform():
    ppca = make_ppca()
    ppca.set_exact_guide(widen=1.5, shift=0.5)
    N, M = 300, 400
    new, held_out = (
        measure(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((n,)), Exact(), num_steps=20, num_samples=50)
        for n in (N, M)
    )
    scores = compare(new, held_out)
    limit = 1.63 * math.sqrt(1 / N + 1 / M)  # Kolmogorov-Smirnov, 1 %
    for p in (scores.tail_probability, scores.regret_tail_probability, *scores.contribution_tail_probability.T):
        expected = torch.arange(1, N + 1) / N
        assert (p.sort().values - expected).abs().max() < limit
    p = scores.tail_probability
    torch.testing.assert_close(scores.tail_se, (p * (1 - p) / M).sqrt())
    far = compare(measure(ppca.vae.model, ppca.vae.guide, ppca.b + 30 * torch.ones(1, 5).double(), Exact()), held_out)
    assert far.tail_probability.item() == pytest.approx(1 / (M + 1))


def test_tail_probability_counts_ties_and_leaves_out_what_is_missing():
    held_out = torch.tensor([[1.0, 5.0], [2.0, torch.nan], [2.0, 7.0]])
    p = tail_probability(torch.tensor([[2.0, 6.0], [0.0, torch.nan], [9.0, 4.0]]), held_out)
    torch.testing.assert_close(
        p, torch.tensor([[4 / 4, 2 / 3], [1 / 4, torch.nan], [4 / 4, 1 / 3]]).double(), equal_nan=True
    )
    p = tail_probability(torch.tensor([-torch.inf, 1.5]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(p, torch.tensor([1 / 3, 2 / 3]).double())


def test_missing_entries_have_no_contribution_and_make_log_px_incomparable():
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = VAE.build([4], 2, MLP([]), StandardNormal, likelihood, Diagonal, missing=True).double()
    x = torch.randn(6, 4).double()
    x[1, 2] = torch.nan
    new, held_out = (measure(vae.model, vae.guide, data, Importance(500), num_steps=10) for data in (x, x[2:]))
    with pytest.warns(UserWarning, match="1 of 6 datapoints do not have 4 observed entries"):
        scores = compare(new, held_out)
    assert torch.equal(scores.contributions.isnan(), x.isnan())
    assert torch.equal(scores.contribution_tail_probability.isnan(), x.isnan())


def test_discrete_latents_have_no_regret():
    vae = VAE.build([6], 3, MLP([8]), CategoricalPrior, Bernoulli, Categorical)
    x = torch.rand(5, 6).round()
    with pytest.warns(UserWarning, match="no likelihood regret and no contributions.*discrete"):
        measured = measure(vae.model, vae.guide, x, Importance(20))
    scores = compare(measured, measured)
    assert scores.regret is None
    assert scores.contributions is None
    torch.testing.assert_close(scores.tail_probability.max(), torch.tensor(1.0).double())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dependent_entries_have_no_contributions():
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]])

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.MultivariateNormal(z, cov), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    measured = measure(model, guide, torch.randn(5, 2), Importance(100), num_steps=20, num_samples=10)
    assert measured.contributions is None
    assert measured.elbo_best is not None


def test_a_regret_that_is_too_small_is_warned_of():
    """The mode has no curvature, so that only steps from the guide, 60 of its sd away, find the posterior."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Laplace(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((len(x), 1), 60.0), 1.0).to_event(1))

    with pytest.warns(UserWarning, match="whose likelihood regret is too small: raise num_steps=5, e.g. to"):
        measured = measure(model, guide, torch.tensor([0.0, 1.0]), Importance(20), num_steps=5)
    expected = dist.Normal(0.0, 1.0).log_prob(torch.tensor([0.0, 1.0])).double()
    torch.testing.assert_close(measured.contributions, expected)


def test_estimators_of_simulated_data_are_refused(ppca):
    with pytest.raises(BadInput, match="estimator=bdmc"):
        measure(ppca.vae.model, ppca.vae.guide, torch.zeros(2, 5).double(), BDMC())


def measures(regret, contributions):
    regret, contributions = torch.tensor(regret).double(), torch.tensor(contributions).double().unsqueeze(1)
    zero = 0 * regret
    evidence = LogEvidence(zero, zero, zero + 99, zero, zero, 100)
    return Measures(evidence, zero.long() + 1, zero - regret, zero, contributions)


def test_large_regrets_and_small_contributions_are_the_unusual_ones():
    held_out = measures(range(9), range(9))
    scores = compare(measures([100.0, 6.5, -1.0], [-100.0, 1.5, 100.0]), held_out)
    expected = torch.tensor([0.1, 0.3, 1.0]).double()
    torch.testing.assert_close(scores.regret_tail_probability, expected)
    torch.testing.assert_close(scores.contribution_tail_probability.squeeze(1), expected)
