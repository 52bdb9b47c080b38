"""Missing values, against the exact conditional distribution of a linear-Gaussian model."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import every

import pyro_vae
from pyro_vae.analysis import impute
from pyro_vae.errors import BadInput, NoEvidence
from pyro_vae.guides import Diagonal, Point
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

S = 2000
OBSERVED = torch.tensor([[True, True, False, True, False], [False, False, False, True, False], [True] * 5])


def exact(ppca, x, observed):
    """Mean and covariance of x_mis given x_obs."""
    mu, cov = ppca.evidence.mean, ppca.evidence.covariance_matrix
    o, m = observed, ~observed
    gain = cov[m][:, o] @ cov[o][:, o].inverse()
    return mu[m] + gain @ (x[o] - mu[o]), cov[m][:, m] - gain @ cov[o][:, m]


@pytest.fixture
def rows(ppca):
    return ppca.evidence.sample((3,))


@pytest.mark.parametrize(("widen", "shift"), every(2, [(1.3, 0.5), (1.0, 0.0), (1.5, 0.0)], several=True))
def test_draws_are_those_of_the_exact_conditional(ppca, rows, widen, shift):
    ppca.set_exact_guide(widen, shift)  # a poor guide must not show
    x = torch.where(OBSERVED, rows, math.nan)
    draws = ppca.vae.impute(x, num_samples=1000, num_steps=100, method="gibbs")
    assert draws.shape == (1000, 3, 5)
    assert torch.equal(draws[:, OBSERVED], rows[OBSERVED].expand(1000, -1))
    for n in (0, 1):
        mean, cov = exact(ppca, rows[n], OBSERVED[n])
        missing = draws[:, n, ~OBSERVED[n]]
        se = (cov.diagonal() / 1000).sqrt()
        assert ((missing.mean(0) - mean).abs() < 4.5 * se).all()
        # Var of a sample covariance: (Σ_ii Σ_jj + Σ_ij²) / 1000
        se = ((torch.outer(cov.diagonal(), cov.diagonal()) + cov**2) / 1000).sqrt()
        assert ((missing.T.cov() - cov).abs() < 4.5 * se).all()


def test_chains_that_hardly_move_are_told_of(ppca, rows, recwarn):
    """A guide far away is followed only by draws better than all before: the n-th step with a chance of 1/n or so."""
    for shift, num_steps, told in ((0.0, 40, False), (20.0, 400, True)):
        ppca.set_exact_guide(shift=shift)
        recwarn.clear()
        ppca.vae.impute(rows, OBSERVED, num_samples=20, num_steps=num_steps, method="gibbs")
        assert any("chains moved" in str(warning.message) for warning in recwarn) == told


@pytest.mark.parametrize(("widen", "shift"), every(2, [(0.1, 8.0), (1.0, 8.0), (0.1, 0.0), (1.0, 0.0)], several=True))
def test_a_guide_far_off_does_not_show(ppca, rows, widen, shift):
    """The old chain is off by hundreds of standard errors if the guide is 8 posterior sd away."""
    ppca.set_exact_guide(widen, shift)
    draws = ppca.vae.impute(rows, OBSERVED, num_samples=500)
    assert torch.equal(draws[:, OBSERVED], rows[OBSERVED].expand(500, -1))
    for n in (0, 1):
        mean, cov = exact(ppca, rows[n], OBSERVED[n])
        missing, variance = draws[:, n, ~OBSERVED[n]], cov.diagonal()
        assert ((missing.mean(0) - mean).abs() < 4.5 * (variance / 500).sqrt()).all()
        assert ((missing.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / 500)).all()


def test_a_row_without_observed_values_is_a_draw_of_the_model(ppca, rows):
    ppca.set_exact_guide(shift=8.0)
    draws = ppca.vae.impute(rows[:1], torch.zeros(1, 5, dtype=torch.bool), num_samples=S)[:, 0]
    mean, variance = ppca.evidence.mean, ppca.evidence.covariance_matrix.diagonal()
    assert ((draws.mean(0) - mean).abs() < 4.5 * (variance / S).sqrt()).all()
    assert ((draws.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / S)).all()


def test_modes_have_their_shares():
    """z is near −4 or 4; the guide knows only of −4, and x_0 tells little."""

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            weights = dist.Categorical(torch.tensor([0.3, 0.7]))
            z = pyro.sample("z", dist.MixtureSameFamily(weights, dist.Normal(torch.tensor([-4.0, 4.0]), 1.0)))
            pyro.sample("x", dist.Normal(torch.stack([0.1 * z, z], -1), torch.tensor([1.0, 0.1])).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((len(x),), -4.0), 0.5))

    x = torch.tensor([[-0.5, 0.0], [1.0, 0.0]])
    draws = impute(model, guide, x, torch.tensor([True, False]).expand(2, 2), num_samples=S)[..., 1]
    odds = 0.7 / 0.3 * torch.exp(0.8 * x[:, 0] / 1.01)  # p(x_0) of each component is N(±0.4, 1 + 0.1²)
    share = odds / (1 + odds)
    assert (((draws > 0).double().mean(0) - share).abs() < 4.5 * (share * (1 - share) / S).sqrt()).all()


def test_dependent_entries_are_observed_together():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.MultivariateNormal(z, torch.eye(2)), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7).to_event(1))

    x = torch.zeros(2, 2)
    for method in ("auto", "gibbs", "importance"):
        with pytest.raises(BadInput, match=r"a part of an event of shape \[2\]"):
            impute(model, guide, x, torch.tensor([[True, False], [True, True]]), method=method)
    draws = impute(model, guide, x, torch.tensor([[False, False], [True, True]]), num_samples=3, num_steps=4)
    assert (draws[:, 0] != 0).all()
    assert (draws[:, 1] == 0).all()


def test_means_vary_less_and_agree(ppca, rows):
    ppca.set_exact_guide()
    n, impute = 500, partial(ppca.vae.impute, rows[:1], OBSERVED[:1], num_steps=40)
    draws, means = (impute(num_samples=n, mean=mean) for mean in (False, True))
    mean, cov = exact(ppca, rows[0], OBSERVED[0])
    of_means = means[:, 0, ~OBSERVED[0]]
    assert ((of_means.mean(0) - mean).abs() < 4.5 * (cov.diagonal() / n).sqrt()).all()
    noise = draws[:, 0, ~OBSERVED[0]].var(0) - of_means.var(0)
    assert (noise / 0.25 - 1).abs().max() < 4.5 * (2 * (cov.diagonal() ** 2).max() / n / 0.25**2).sqrt() * 2**0.5


def test_a_mask_broadcasts_and_chains_are_taken_some_at_a_time(ppca, rows, monkeypatch):
    monkeypatch.setattr("pyro_vae.analysis.imputation.CHAINS_AT_ONCE", 5)
    ppca.set_exact_guide()
    mask = np.array([True, True, False, True, True])
    draws = ppca.vae.impute(rows, mask, num_samples=4, num_steps=2)
    assert torch.equal(draws[:, :, mask], rows[:, mask].expand(4, -1, -1))
    assert (draws[:, :, 2] != rows[:, 2]).all()


KINDS = [
    ("diagonal", "[3,2]"), ("diagonal", "2"), ("mixture", "2"), ("mixture", "[3,2]"),
    ("inverse_autoregressive", "[3,2]"), ("inverse_autoregressive", "2"), ("semi_amortized", "2"),
]  # fmt: skip


@pytest.mark.parametrize(("guide", "latent_dim"), every(2, KINDS, several=True))
def test_every_kind_of_model(guide, latent_dim):
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    y = torch.arange(40) % 2
    overrides = ["network.hidden=[8]", "network.upper_hidden=[8]", f"++latent_dim={latent_dim}", "conditioning=concat"]
    vae = pyro_vae.fit(x, y=y, guide=guide, max_epochs=1, overrides=overrides)
    draws = vae.impute(x[:5], torch.rand(5, 6) < 0.5, y=y[:5], num_samples=3, num_steps=4)
    assert draws.shape == (3, 5, 6)
    assert ((draws == 0) | (draws == 1)).all()


def test_what_is_wrong_is_said(ppca, rows):
    vae = ppca.vae
    for x, mask, settings, message in [
        (rows, torch.ones(3, 4, dtype=torch.bool), {}, r"mask has shape \[3, 4\]: it must broadcast to \[3, 5\]"),
        (rows, torch.ones(3, 5), {}, "mask has dtype float32: it must be boolean"),
        (rows, torch.ones(3, 5).bool().to_sparse(), {}, r"mask is a sparse tensor .*mask.to_dense\(\)"),
        (rows, [[True] * 5, [True]], {}, "mask is a ragged list"),
        (rows, np.full((3, 5), "a"), {}, "mask has dtype <U1"),
        (rows / 0, OBSERVED, {}, "x holds observed values that are NaN or Inf"),
        (rows[:, :4], None, {}, r"x has shape \[3, 4\]"),
        (rows, OBSERVED, {"num_samples": 0}, "num_samples=0"),
        (rows, OBSERVED, {"num_steps": 1.5}, "num_steps=1.5"),
        (rows, OBSERVED, {"num_proposals": 0, "method": "importance"}, "num_proposals=0"),
        (rows, OBSERVED, {"num_proposals": 9}, "num_proposals=9 is of method=importance.*method=posterior"),
        (rows, OBSERVED, {"num_proposals": 9, "num_steps": 9, "method": "importance"}, "num_steps=9: give one of them"),
        (rows, OBSERVED, {"method": "nuts"}, "method='nuts' is not one of auto, posterior, gibbs"),
        (rows, OBSERVED, {"y": 1}, "y is given"),
    ]:
        with pytest.raises(BadInput, match=message):
            vae.impute(x, mask, **settings)
    binary = VAE.build([6], 2, MLP([4]), StandardNormal, Bernoulli, Diagonal)
    x = torch.tensor([[0.0, 255.0, 0.5, 1.0, 0.0, torch.nan]])
    with pytest.raises(BadInput, match="255"):  # a scale that the likelihood does not know, where it is observed
        binary.impute(x)
    with pytest.warns(UserWarning, match="bernoulli"):
        binary.impute(x, torch.tensor([True, False, True, True, True, False]), num_steps=1)
    point = VAE.build([6], 2, MLP([4]), StandardNormal, Bernoulli, Point)
    with pytest.raises(NoEvidence, match="autoencoder"):
        point.impute(torch.zeros(2, 6), torch.ones(6, dtype=torch.bool))


def test_discrete_latents_are_imputed_by_gibbs_with_a_line(caplog):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))

    caplog.set_level(0)
    x = torch.zeros(2, 2)
    impute(model, guide, x, x == x, num_samples=1, num_steps=4)
    assert [m for m in caplog.messages if "method=gibbs" in m]


def test_chains_that_have_not_converged_are_told_of(ppca, monkeypatch):
    from pyro_vae.analysis import masked

    find = masked.search

    def far(p, **settings):
        found = find(p, **settings)
        return replace(
            found, q=replace(found.q, loc=found.q.loc + 3, scale_tril=0.01 * found.q.scale_tril), guide_weight=0.0
        )

    x = ppca.evidence.sample((3,))
    seen = torch.tensor([True, True, False, True, True]).expand(3, 5)
    monkeypatch.setattr(masked, "search", far)
    with pytest.warns(UserWarning, match="the chains of 3 of 3 datapoints have not converged: raise num_steps"):
        ppca.vae.impute(x, seen, num_samples=20, num_steps=40)
