"""Likelihoods start from the training data, in whatever units; their marginals are the fitted ones."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.scaled import SHARE
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

D, L, N = [2, 3], 17, 3000
LOC = np.arange(6.0).reshape(D)
DATA = {
    "normal": lambda rng: 40 + 3 * LOC + (1 + LOC) * rng.normal(size=(N, *D)),
    "one_scale": lambda rng: 40 + 3 * LOC + 0.2 * rng.normal(size=(N, *D)),
    "t": lambda rng: 40 + 3 * LOC + 0.2 * rng.standard_t(5, size=(N, *D)),
    "binary": lambda rng: rng.random((N, *D)) < (1 + LOC) / 8,
    "beta": lambda rng: rng.beta(20 + 5 * LOC, 60, size=(N, *D)),
    "unit": lambda rng: rng.beta(1 + LOC, 2, size=(N, *D)),
    "levels": lambda rng: rng.binomial(L - 1, 0.3 + LOC / 20, size=(N, *D)) / (L - 1),
    "poisson": lambda rng: rng.poisson(700 + 10 * LOC, size=(N, *D)),
    "overdispersed": lambda rng: rng.negative_binomial(5, 5 / (5 + 200 + LOC), size=(N, *D)),
}
# a family, its data, and whether its spread is free
FAMILIES = {
    "gaussian_learned": (Gaussian, "one_scale", True),
    "gaussian_fixed": (partial(Gaussian, scale="fixed"), "one_scale", True),
    "gaussian_per_pixel": (partial(Gaussian, scale="per_pixel"), "normal", True),
    "student_t": (StudentT, "t", True),
    "bernoulli": (Bernoulli, "binary", False),
    "continuous_bernoulli": (ContinuousBernoulli, "unit", False),
    "beta": (Beta, "beta", True),
    "categorical": (partial(Categorical, num_levels=L), "levels", True),
    "discretized_logistic": (partial(DiscretizedLogistic, num_levels=L), "levels", True),
    "discretized_logistic_mixture": (partial(DiscretizedLogistic, num_levels=L, num_components=4), "levels", True),
    "poisson": (Poisson, "poisson", False),
    "negative_binomial": (NegativeBinomial, "overdispersed", True),
}


def draw(kind, seed=0):
    return torch.from_numpy(np.asarray(DATA[kind](np.random.default_rng(seed)), np.float32))


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def test_zero_gives_the_mean_and_the_spread_of_the_data(name):
    family, kind, free = FAMILIES[name]
    likelihood, x = family(D), draw(kind)
    likelihood.initialize_from(x)
    with torch.no_grad():
        p = likelihood(torch.zeros(likelihood.param_shape))
        drawn = p.sample((20_000,))
    noise = x.std(0) / 3000**0.5
    assert ((drawn.mean(0) - x.mean(0)).abs() < 5 * noise).all()
    if free:
        share = SHARE if name in ("gaussian_learned", "gaussian_per_pixel", "student_t") else 1.0
        torch.testing.assert_close(drawn.std(0), share * x.std(0), rtol=0.1, atol=0)


def closed_form(name, x):
    """log p of each datapoint, fitted and worked out by scipy: float64, `[N]`."""
    mean, sd = x.mean(0), x.std(0)
    if name.startswith("gaussian"):
        return stats.norm(mean, sd).logpdf(x)
    if name == "student_t":
        fitted = np.array([stats.t.fit(column, fdf=5) for column in x.reshape(N, -1).T])
        return stats.t(5, fitted[:, 1].reshape(D), fitted[:, 2].reshape(D)).logpdf(x)
    if name == "bernoulli":
        return stats.bernoulli((N * mean + 0.5) / (N + 1)).logpmf(x)
    if name == "continuous_bernoulli":

        def natural(m):  # the truncated exponential's
            return optimize.brentq(
                lambda h: 1 / (1 - np.exp(-h)) - 1 / h - m, *((1e-3, 90) if m > 0.5 else (-90, -1e-3))
            )

        h = np.vectorize(natural)(mean)
        return h * x - np.log(np.expm1(h) / h)
    if name == "beta":
        both = mean * (1 - mean) / sd**2 - 1
        return stats.beta(mean * both, (1 - mean) * both).logpdf(x)
    if name == "poisson":
        return stats.poisson(mean + 0.5 / N).logpmf(x)
    assert name == "negative_binomial"
    m = mean + 0.5 / N
    alpha = (sd**2 - m) / m**2
    return stats.nbinom(1 / alpha, 1 / (1 + alpha * m)).logpmf(x)


def test_marginals_are_those_of_scipy(name):
    if name.startswith(("categorical", "discretized_logistic")):
        pytest.skip("test_levels.py has them")
    family, kind, _ = FAMILIES[name]
    x = draw(kind)
    p = family(D).marginals(x)
    assert p.batch_shape == ()
    assert p.event_shape == torch.Size(D)
    expected = closed_form(name, x.double().numpy()).sum((1, 2))
    found = p.log_prob(x.double()).numpy()
    if name == "student_t":  # by scipy's simplex
        assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
        assert found.mean() > expected.mean() - 1e-9
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


FREE = {"learned": ("gaussian", []), "per_pixel": ("gaussian", ["likelihood.scale=per_pixel"]), "t": ("student_t", [])}


@pytest.mark.parametrize("kind", FREE)
def test_other_units_are_learnt_as_well(kind):
    likelihood, overrides = FREE[kind]
    x = torch.randn(200, 3) @ torch.randn(3, 4)
    x = (x * 2**10).round() / 2**10  # so that other units do not round it

    def log_px(a, b):
        vae = pyro_vae.fit(a * x + b, likelihood=likelihood, max_epochs=2, latent_dim=2, overrides=overrides)
        torch.manual_seed(0)
        return vae.log_prob(a * x + b, 50, estimator="importance") + 4 * np.log(a)

    usual = log_px(1.0, 0.0)
    for a, b in ((2.0**-10, 0.0), (1.0, 512.0), (2.0**18, -(2.0**20))):
        torch.testing.assert_close(log_px(a, b), usual, rtol=0, atol=2e-3)


def test_numbers_are_in_the_units_of_the_data():
    x = draw("one_scale")
    for scale in ("fixed", "learned", "per_pixel"):
        likelihood = Gaussian(D, scale=scale, init_scale=0.7)
        likelihood.initialize_from(x)
        p = likelihood(torch.zeros(likelihood.param_shape))
        torch.testing.assert_close(p.stddev, torch.full(D, 0.7))
        torch.testing.assert_close(p.mean, x.mean(0))
    for family in (partial(Gaussian, min_scale=0.05), partial(StudentT, min_scale=0.05)):
        likelihood = family(D)
        likelihood.initialize_from(x)
        likelihood.raw_scale.data.fill_(-1e3)
        assert likelihood.scale.item() == pytest.approx(0.05)
    likelihood = Gaussian(D)
    likelihood.initialize_from(x)
    likelihood.raw_scale.data.fill_(-1e3)
    assert likelihood.scale.item() == pytest.approx(0.01 * x.var(0).mean().sqrt().item(), rel=1e-3)


ODD = {
    "one datapoint": lambda x: x[:1],
    "two datapoints": lambda x: x[:2],
    "constant columns": lambda x: torch.cat([x[:, :1], x[:1, 1:].expand(N, 1, 3)], 1),
    "constant": lambda x: x[:1].expand(N, *D),
}


@pytest.mark.parametrize("odd", ODD)
def test_data_without_spread(name, odd):
    family, kind, _ = FAMILIES[name]
    x = ODD[odd](draw(kind))
    vae = VAE.build(D, 2, MLP([8]), StandardNormal, family, Diagonal)
    vae.initialize(x)
    likelihood = vae.likelihood
    h = torch.zeros(likelihood.param_shape, requires_grad=True)
    log_px = likelihood(h).log_prob(x[:5])
    gradients = torch.autograd.grad(log_px.sum(), [h, *likelihood.parameters()])
    assert log_px.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    assert vae.encode(x[:5]).isfinite().all()
    marginals = likelihood.marginals(x).log_prob(x[:5].double())
    assert marginals.isfinite().all()


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_very_small_and_large_numbers(size):
    x = size * torch.randn(100, *D)
    for family in (Gaussian, partial(Gaussian, scale="per_pixel"), StudentT):
        likelihood = family(D)
        likelihood.initialize_from(x)
        log_px = likelihood(torch.zeros(likelihood.param_shape)).log_prob(x)
        expected = stats.norm(0, size).logpdf(x.double().numpy()).sum((1, 2))
        assert (
            abs(log_px.mean().item() - expected.mean()) < 6 * 7
        )  # nats: a scale of SHARE costs 6.1 for each dimension


def test_outliers_do_not_move_a_student_t():
    x = draw("t")
    far = x.clone()
    far[:30] = 1e6
    likelihoods = [StudentT(D), StudentT(D)]
    for likelihood, data in zip(likelihoods, (x, far), strict=True):
        likelihood.initialize_from(data)
    usual, moved = (p(torch.zeros(1, *D)).base_dist for p in likelihoods)
    torch.testing.assert_close(moved.loc, usual.loc, rtol=0, atol=0.02)
    torch.testing.assert_close(moved.scale, usual.scale, rtol=0.1, atol=0)


def test_rare_values_do_not_blow_up():
    """A pixel that is set in one image of 3000 has a standard deviation of 0.02, and no value beyond 10 units."""
    x = torch.zeros(3000, 2)
    x[0, 0] = 1
    x[:, 1] = torch.randn(3000)
    data = moments(x)
    assert data.unit[0].item() == pytest.approx(0.1, rel=0.01)
    assert data.unit[1].item() == pytest.approx(x[:, 1].double().std(correction=0).item())
    assert ((x - data.mean) / data.unit).abs().max() < 10.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpoints_of_earlier_versions_give_the_very_same(name, dtype):
    """They have none of the buffers, or one of a start that was the same for all dimensions."""
    options = {"gaussian": {"init_scale": 0.1, "min_scale": 0.01}, "student": {"init_scale": 0.1, "min_scale": 0.01}}
    family, kind, _ = FAMILIES[name]
    family = partial(family, **options.get(name.partition("_")[0], {}))
    x = draw(kind)
    old, new = (VAE.build(D, 2, MLP([8]), StandardNormal, family, Diagonal).to(dtype) for _ in range(2))
    state = old.state_dict()
    offset = state["likelihood.offset"]
    rows = offset.flatten(1)
    assert (rows == rows[:, :1]).all()  # in `raw_offset`, where it is not 0
    saved = {
        key: value
        for key, value in state.items()
        if key.split(".")[-1] not in ("offset", "unit", "low", "gain", "location", "scale")
    }
    if rows.any():
        saved["likelihood.raw_offset"] = rows[rows.any(1)][0, 0]
    new.initialize(x)
    new.load_state_dict(saved)
    assert all(torch.equal(value, state[key]) for key, value in new.state_dict().items())
    z = torch.randn(4, 2).to(dtype)
    assert torch.equal(new.p_x(z).mean, old.p_x(z).mean)


def test_a_bernoulli_starts_a_margin_away_from_0_and_1():
    x = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    for margin, expected in ((0.05, [0.05, 0.95, 0.5]), (0.001, [0.001, 0.999, 0.5])):
        likelihood = Bernoulli([3], start_margin=margin)
        likelihood.initialize_from(x)
        torch.testing.assert_close(likelihood(torch.zeros(1, 3)).mean, torch.tensor(expected))
    for wrong in (0.0, 0.6, "much"):
        with pytest.raises(BadInput, match="start_margin"):
            Bernoulli([3], start_margin=wrong)


def test_pixels_that_are_rarely_set_do_not_start_narrow():
    """Half of the pixels are set once in 200 times: a narrow logistic puts those values far out in its tail."""
    torch.manual_seed(0)
    set_ = torch.rand(1000, 40) < torch.tensor([0.005, 0.5]).repeat_interleave(20)
    x = torch.where(set_, torch.randint(1, 256, (1000, 40)), 0) / 255
    likelihood = DiscretizedLogistic([40])
    likelihood.initialize_from(x)
    h = 0.1 * torch.randn(1000, *likelihood.param_shape)  # as a decoder's outputs are at first
    best = likelihood.marginals(x).log_prob(x.double()).mean()
    assert best - likelihood(h).log_prob(x).mean() < 30  # 52 nats from their own standard deviations
