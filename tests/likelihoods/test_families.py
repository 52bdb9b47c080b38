"""Every likelihood: its log p(x | z) against scipy, its normalization, draws, mean, derivatives and extremes."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, special, stats

from pyro_vae.errors import BadInput
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

L = 6
GRID = np.arange(L) / (L - 1)
COUNTS = np.arange(400.0)
FAMILIES = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian_fixed": partial(Gaussian, scale="fixed", init_scale=0.3),
    "gaussian_learned": partial(Gaussian, init_scale=0.3, min_scale=0.02),
    "gaussian_per_pixel": partial(Gaussian, scale="per_pixel", init_scale=0.3, min_scale=0.02),
    "student_t": partial(StudentT, df=4.0, init_scale=0.3, min_scale=0.02),
    "beta": partial(Beta, init_concentration=1.2, min_concentration=0.05),
    "categorical": partial(Categorical, num_levels=L),
    "discretized_logistic": partial(DiscretizedLogistic, num_levels=L, init_scale=0.2),
    "discretized_logistic_mixture": partial(DiscretizedLogistic, num_levels=L, num_components=3),
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
# all values of the discrete ones; ends and inner edges of cells of the others
SUPPORT = {
    "bernoulli": np.array([0.0, 1]),
    "continuous_bernoulli": np.array([0, 0.2, 0.5, 0.9, 1]),
    "beta": np.array([0, 0.2, 0.5, 0.9, 1]),
    "categorical": GRID,
    "discretized_logistic": GRID,
    "discretized_logistic_mixture": GRID,
    "poisson": COUNTS,
    "negative_binomial": COUNTS,
}
LINE = np.array([-np.inf, -0.7, 0.1, 0.8, np.inf])


def softplus(u):
    return np.logaddexp(0, u)


def softplus_from(init, low, u):
    """low + softplus(u), shifted to be init at u = 0."""
    return low + softplus(u + np.log(np.expm1(init - low)))


def discretized_logistic(loc, scale, x):
    upper = np.where(x > 0.99, 1.0, stats.logistic(loc, scale).cdf(x + 0.5 / (L - 1)))
    lower = np.where(x < 0.01, 0.0, stats.logistic(loc, scale).cdf(x - 0.5 / (L - 1)))
    with np.errstate(divide="ignore"):  # of components far away nothing is left
        return np.log(upper - lower)


def expected_log_prob(name, likelihood, h, x):
    """In double precision, from scipy: h `[N, num_params, *data_shape]`, x `[N, *data_shape]`; not summed."""
    raw = next((p.detach().numpy() for p in likelihood.parameters()), np.zeros(()))
    if name == "bernoulli":
        return stats.bernoulli(special.expit(h[:, 0])).logpmf(x)
    if name == "continuous_bernoulli":
        return h[:, 0] * x - np.log(np.expm1(h[:, 0]) / h[:, 0])
    if name.startswith("gaussian"):
        scale = {"fixed": 0.3, "learned": 0.02 + softplus(raw), "per_pixel": softplus_from(0.3, 0.02, h[:, -1])}
        return stats.norm(h[:, 0], scale[name.removeprefix("gaussian_")]).logpdf(x)
    if name == "student_t":
        return stats.t(4, h[:, 0], 0.02 + softplus(raw)).logpdf(x)
    if name == "beta":
        return stats.beta(softplus_from(1.2, 0.05, h[:, 0]), softplus_from(1.2, 0.05, h[:, 1])).logpdf(x)
    if name == "categorical":
        k = np.rint(x * (L - 1)).astype(int)
        return np.take_along_axis(special.log_softmax(h, 1), k[:, None], 1)[:, 0]
    if name == "discretized_logistic":
        return discretized_logistic(h[:, 0], softplus_from(0.2, 0.0005, h[:, 1]), x)
    if name == "discretized_logistic_mixture":
        loc, scale, logits = h[:, :3], softplus_from(0.1, 0.0005, h[:, 3:6]), h[:, 6:]
        parts = discretized_logistic(loc, scale, x[:, None])
        return special.logsumexp(parts + special.log_softmax(logits, 1), 1)
    mean = 1e-6 + softplus(h[:, 0])
    if name == "poisson":
        return stats.poisson(mean).logpmf(x)
    alpha = 0.001 + softplus(raw)
    return stats.nbinom(1 / alpha, 1 / (1 + alpha * mean)).logpmf(x)


def make(name, data_shape, seed=0):
    """A likelihood in double precision, its parameters off their starting values."""
    likelihood = FAMILIES[name](data_shape).double()
    generator = torch.Generator().manual_seed(seed)
    for p in likelihood.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator).double()
    return likelihood


def cells(name, likelihood, h):
    """p(x | z) of one number x: probability and first moment of each of its values, or of each of its cells."""
    p = likelihood(h)

    def density(x):
        return p.log_prob(torch.tensor([x], dtype=h.dtype)).exp().item()

    support = SUPPORT.get(name, LINE)
    if likelihood.discrete:
        mass = np.array([density(x) for x in support])
        return mass, mass * support
    ends = list(pairwise(support))
    accuracy = {"epsabs": 1e-10, "epsrel": 1e-10}
    mass = [integrate.quad(density, *e, **accuracy)[0] for e in ends]
    moment = [integrate.quad(lambda x: x * density(x), *e, **accuracy)[0] for e in ends]
    return np.array(mass), np.array(moment)


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def test_log_prob_matches_scipy(name):
    likelihood = make(name, [2, 3])
    h = torch.randn(50, *likelihood.param_shape).double()
    p = likelihood(h)
    x = p.sample()
    assert p.batch_shape == (50,)
    assert p.event_shape == (2, 3)
    expected = expected_log_prob(name, likelihood, h.numpy(), x.numpy()).sum((1, 2))
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)  # options are float32


def test_is_normalized_and_knows_its_mean_and_draws_from_itself(name):
    likelihood, n = make(name, [1]), 20_000
    for h in 1.5 * torch.randn(3, *likelihood.param_shape).double():
        mass, moment = cells(name, likelihood, h)
        assert mass.sum() == pytest.approx(1, abs=1e-7)
        assert likelihood(h).mean.item() == pytest.approx(moment.sum(), rel=1e-6)
        x = likelihood(h).sample((n,)).squeeze(-1).numpy()
        if likelihood.discrete:
            frequency = (np.abs(x[:, None] - SUPPORT[name]) < 1e-9).mean(0)
        else:
            frequency = np.histogram(x, SUPPORT.get(name, LINE))[0] / n
        assert frequency.sum() == pytest.approx(1)
        variance = mass * (1 - mass)
        normal = n * variance > 20
        assert (np.abs(frequency - mass) < 4.5 * np.sqrt(variance / n, where=normal, out=np.zeros_like(mass)))[
            normal
        ].all()


def test_shapes_of_draws_and_expansion(name):
    likelihood = make(name, [2, 3])
    h = torch.randn(4, *likelihood.param_shape).double()
    p = likelihood(h)
    x = p.sample((5,))
    assert x.shape == (5, 4, 2, 3)
    assert x.dtype == torch.float64
    assert p.support.check(x).all()
    assert p.mean.shape == (4, 2, 3)
    wide = p.expand([5, 4])
    assert wide.sample().shape == (5, 4, 2, 3)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(wide.mean[3], p.mean)
    assert likelihood(h[0]).log_prob(x).shape == (5, 4)


def test_samples_are_data_that_it_takes(name):
    likelihood = FAMILIES[name]([50])
    assert likelihood.check(likelihood(torch.randn(40, *likelihood.param_shape)).sample()) is None


def test_first_and_second_derivatives(name):
    likelihood = make(name, [2])
    h = torch.randn(3, *likelihood.param_shape).double()
    h[0] *= 0.02  # near 0
    x = likelihood(h).sample()

    def log_prob(h):
        return likelihood(h).log_prob(x)

    h.requires_grad_()
    with pyro.validation_enabled(False):
        assert torch.autograd.gradcheck(log_prob, (h,))
        assert torch.autograd.gradgradcheck(log_prob, (h,))
        total = torch.func.hessian(lambda h: log_prob(h).sum())(h.detach())
    expected = torch.autograd.functional.hessian(lambda h: log_prob(h).sum(), h)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("size", [30.0, 1e2, 1e4, 1e6])
def test_float32_is_finite_wherever_the_decoder_goes(name, size):
    likelihood = FAMILIES[name]([4])
    support = SUPPORT.get(name, LINE)
    ends = torch.tensor([support.min(), support.max()]).clamp(-1e3, 1e3).float()
    if name == "beta":
        ends = ends.clamp(1e-6, 1 - 1e-6)
    signs = torch.randint(0, 2, (64, *likelihood.param_shape)) * 2.0 - 1
    h = (size * signs).requires_grad_()
    for x in (ends[0], ends[1], ends[torch.arange(4) % 2]):
        log_prob = likelihood(h).log_prob(x.expand(64, 4))
        assert log_prob.dtype == torch.float32
        assert log_prob.isfinite().all()
        if likelihood.discrete:
            assert (log_prob <= 1e-6).all()
        inputs = [h, *likelihood.parameters()]
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), inputs))
    p = likelihood(h.detach())
    assert p.mean.isfinite().all()
    drawn = p.sample()
    assert p.support.check(drawn).all()
    assert p.log_prob(drawn).isfinite().all()
    with pyro.validation_enabled(False):
        one = torch.func.hessian(lambda h: likelihood(h).log_prob(ends[0].expand(4)).sum())(h[0].detach())
    assert one.isfinite().all()


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "beta"])
def test_float32_keeps_the_digits_where_terms_cancel(name):
    """Counts, or concentrations, of 1e5: these are rounded by 0.01, the log-densities' slopes there are below 0.02."""
    likelihood = FAMILIES[name]([1])
    with torch.no_grad():
        h = 1e5 + 1e3 * torch.randn(200, *likelihood.param_shape)
        x = likelihood(h).sample()
        found = likelihood(h).log_prob(x)
        exact = likelihood.double()(h.double()).log_prob(x.double())
    assert found.dtype == torch.float32
    assert name == "beta" or x.max() > 9e4
    assert (found - exact).abs().max() < 2e-4


@pytest.mark.parametrize("df", [4.0, 1e4, 1e6, 1e8])
def test_student_t_is_normalized_in_float32_for_any_df(df):
    x = torch.tensor([[-3.0, 0.0, 0.7, 5.0]]).T
    p = StudentT([1], df=df, init_scale=1.0, min_scale=0.5)(torch.zeros(1, 1))
    expected = stats.t(df, 0, p.base_dist.scale.item()).logpdf(x[:, 0].numpy())
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_student_t_refuses_what_is_a_gaussian():
    with pytest.raises(BadInput, match="df=1000000000.0 exceeds 1e8.*use likelihood=gaussian"):
        StudentT([1], df=1e9)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_counts_may_be_whole_numbers(name):
    likelihood = FAMILIES[name]([3])
    h = torch.randn(4, 1, 3, requires_grad=True)
    x = torch.tensor([0.0, 1, 5])
    for dtype in (torch.int64, torch.uint8):
        whole, of_floats = likelihood(h).log_prob(x.to(dtype)), likelihood(h).log_prob(x)
        assert torch.equal(whole, of_floats)
        assert torch.equal(*(torch.autograd.grad(value.sum(), h)[0] for value in (whole, of_floats)))
    assert likelihood(h).log_prob(x.double()).dtype == torch.float64


DISCRETE = [name for name in SUPPORT if name not in ("continuous_bernoulli", "beta")]


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("size", [8.0, 30.0])
def test_float32_stays_normalized_where_the_decoder_is_sure(name, size):
    likelihood = FAMILIES[name]([1])
    signs = torch.randint(0, 2, (20, *likelihood.param_shape)) * 2.0 - 1
    values = torch.from_numpy(SUPPORT[name]).float().reshape(-1, 1, 1)
    total = likelihood(size * signs).log_prob(values).double().exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_for_any_logit(dtype):
    """Also where sigmoid(h) rounds to 0 or 1, and around h = 0."""
    positive = torch.tensor([1e-5, 1e-3, 0.05, 0.099, 0.101, 0.3, 2, 15, 17, 30, 300, 1e5], dtype=dtype)
    h = torch.cat([positive, -positive])
    p = ContinuousBernoulli([1])(h.reshape(-1, 1, 1))
    a = h.double().abs().numpy()
    accuracy = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    for x in (0.0, 0.3, 1.0):
        below = np.where(h > 0, 1 - x, x)  # by symmetry, the distance from the mode
        expected = np.log(a) - np.log(-np.expm1(-a)) - a * below
        np.testing.assert_allclose(p.log_prob(torch.full((len(h), 1), x, dtype=dtype)).numpy(), expected, **accuracy)
    distance = np.where(a < 1e-2, 0.5 - a / 12, 1 / a - 1 / np.expm1(np.minimum(a, 500)))
    np.testing.assert_allclose(p.mean[:, 0].numpy(), np.where(h > 0, 1 - distance, distance), **accuracy)
    at_zero = ContinuousBernoulli([1])(torch.zeros(1, 1))
    assert at_zero.log_prob(torch.tensor([0.3])).item() == pytest.approx(0, abs=1e-6)
    assert at_zero.mean.item() == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_spreads_for_any_logit(dtype):
    """Variance, entropy and distribution function against derivatives and closed forms in double precision."""
    positive = torch.tensor([1e-5, 1e-3, 0.09, 0.11, 0.3, 0.49, 0.51, 2, 15, 17, 50, 300], dtype=dtype)
    h = torch.cat([positive, -positive]).reshape(-1, 1, 1)
    p, exact = ContinuousBernoulli([1])(h).base_dist, ContinuousBernoulli([1])(h.double()).base_dist
    accuracy = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-9}
    logit = h.double().requires_grad_()
    mean = ContinuousBernoulli([1])(logit).base_dist.mean
    torch.testing.assert_close(p.variance.double(), torch.autograd.grad(mean.sum(), logit)[0][:, 0], **accuracy)
    # log p is linear in x
    torch.testing.assert_close(p.entropy().double(), -exact.log_prob(exact.mean), **accuracy)
    for x in (0.01, 0.4, 0.99):
        expected = torch.expm1(x * h.double()) / torch.expm1(h.double())
        torch.testing.assert_close(p.cdf(torch.tensor(x, dtype=dtype)).double(), expected[:, 0], **accuracy)
    assert torch.equal(p.cdf(torch.tensor([-1.0], dtype=dtype)), torch.zeros(len(h), 1, dtype=dtype))
    assert torch.equal(p.cdf(torch.tensor([2.0], dtype=dtype)), torch.ones(len(h), 1, dtype=dtype))


def test_continuous_bernoulli_draws_for_any_logit(monkeypatch):
    h = torch.tensor([-1e4, -40, -20.0, 0, 20, 40, 1e4]).reshape(-1, 1, 1)
    p, n = ContinuousBernoulli([1])(h), 40_000
    x = p.sample((n,))
    assert ((x.mean(0) - p.mean).abs() < 4.5 * x.std(0) / math.sqrt(n)).all()
    monkeypatch.setattr(torch, "rand", torch.zeros)  # which it may be
    assert torch.isin(p.sample(), torch.tensor([0.0, 1.0])).all()


def test_continuous_bernoulli_quantiles_invert_its_distribution_function():
    h, u = torch.tensor([[-5.0, -0.5, 0.5, 5]]).double(), torch.linspace(0.01, 0.99, 20).double().reshape(-1, 1)
    x = ContinuousBernoulli([4])(h).base_dist.icdf(u)
    torch.testing.assert_close(torch.expm1(h * x) / torch.expm1(h), u.expand(20, 4))


@pytest.mark.parametrize(("num_components", "loc"), [(1, 0.31), (5, -0.4)])
def test_discretized_logistic_on_bytes_in_float32(num_components, loc):
    """256 levels: normalized, and the mean is the sum over the grid, for sharp, broad and far away logistics."""
    likelihood = DiscretizedLogistic([1], num_components=num_components)
    h = torch.randn(30, *likelihood.param_shape) * torch.tensor([0.1, 1, 10]).repeat(10).reshape(-1, 1, 1) + loc
    levels = torch.arange(256).reshape(-1, 1, 1) / 255
    p = likelihood(h)
    mass = p.log_prob(levels).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(30), rtol=0, atol=1e-4)
    torch.testing.assert_close((mass * levels[..., 0]).sum(0), p.mean[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("mean", [0.01, 3.0, 200.0])
def test_negative_binomial_has_the_promised_variance_and_a_dispersion_a_dimension(mean):
    likelihood = NegativeBinomial([2], init_dispersion=0.7).double()
    likelihood.raw_dispersion.data[1] = math.log(math.expm1(0.2))  # α = 0.001 + 0.2
    h = torch.full((1, 2), math.log(math.expm1(mean))).double()
    alpha = torch.tensor([0.7, 0.201]).double()
    variance = likelihood(h).variance
    torch.testing.assert_close(variance, mean + alpha * mean**2, rtol=1e-3, atol=0)


def maximize_likelihood(likelihood, h, x):
    optimizer = torch.optim.LBFGS([p for p in (*likelihood.parameters(), h) if p.requires_grad], max_iter=100)

    def loss():
        optimizer.zero_grad()
        value = -likelihood(h).log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return likelihood(h)


@pytest.mark.parametrize("family", [Gaussian, StudentT])
def test_learned_scale_finds_the_maximum_likelihood_one(family):
    x = 0.2 * torch.randn(1000, 1)
    p = maximize_likelihood(family([1], init_scale=1.0), torch.zeros(1, 1), x)
    expected = stats.norm.fit(x, floc=0)[1] if family is Gaussian else stats.t.fit(x, fdf=5, floc=0)[2]
    assert p.base_dist.scale.item() == pytest.approx(expected, rel=1e-3)


def test_learned_dispersion_recovers_mean_and_variance():
    m, alpha, n = 4.0, 0.5, 10_000
    x = torch.from_numpy(stats.nbinom(1 / alpha, 1 / (1 + alpha * m)).rvs((n, 1), random_state=0)).float()
    p = maximize_likelihood(NegativeBinomial([1], init_dispersion=0.1), torch.zeros(1, 1, requires_grad=True), x)
    assert p.mean.item() == pytest.approx(x.mean().item(), rel=1e-3)  # the maximum-likelihood estimate, whatever alpha
    squares = (x - x.mean()).square()
    assert abs(p.variance.item() - squares.mean()) < 4.5 * squares.std() / math.sqrt(n)


def test_start_where_their_options_say():
    zero = torch.zeros(1)
    for likelihood in (Gaussian([1], init_scale=0.4), Gaussian([1], scale="per_pixel", init_scale=0.4)):
        assert likelihood(torch.zeros(likelihood.param_shape)).stddev.item() == pytest.approx(0.4)
    assert StudentT([1], init_scale=0.4)(torch.zeros(1, 1)).base_dist.scale.item() == pytest.approx(0.4)
    assert Beta([1])(torch.zeros(2, 1)).log_prob(zero + 0.3).item() == pytest.approx(0, abs=1e-6)  # uniform


@pytest.mark.parametrize("name", ["categorical", "discretized_logistic", "discretized_logistic_mixture"])
def test_validation_refuses_values_off_the_grid(name):
    likelihood = FAMILIES[name]([2])
    p = likelihood(torch.zeros(likelihood.param_shape))
    for bad in (0.5, -0.2, 1.2):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor([0.2, bad]))
