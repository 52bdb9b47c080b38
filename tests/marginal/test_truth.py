"""Every estimator against exact log p(x): of a linear-Gaussian model, and of nonlinear ones by quadrature."""

import math
from functools import cache, partial
from itertools import product

import pyro
import pytest
import torch
from conftest import every
from pyro.distributions import Normal

from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance
from pyro_vae.guides import Mixture as MixtureGuide
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import AIS, BDMC, NUTS, Exact, Importance, Refined
from pyro_vae.marginal.prior import prior_of
from pyro_vae.networks import MLP
from pyro_vae.priors import Mixture, StandardNormal
from pyro_vae.programs.density import Latents
from pyro_vae.vae import VAE

SHORT_AIS = {"num_samples": 32, "num_temperatures": 20, "num_leapfrog": 4}


@pytest.fixture(params=[1, 2])
def nonlinear(request):
    """A VAE with a curved posterior, data drawn from it, and their log p(x) by a fine grid over z."""
    return make_nonlinear(request.param)


@cache
def make_nonlinear(D):
    torch.manual_seed(3)
    vae = VAE.build([6], D, MLP([10]), StandardNormal, Bernoulli, Diagonal).double()
    with torch.no_grad():
        for p in vae.decoder.parameters():
            p.copy_(0.8 * torch.randn_like(p))
        vae.posterior.loc_log_scale.weight.mul_(0.3)
        vae.posterior.loc_log_scale.bias[D:] = -0.2
        x = vae.sample(60)
        axis = torch.linspace(-8, 8, 2001 if D == 1 else 161, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(*[axis] * D, indexing="ij"), -1).reshape(-1, 1, D)
        f = Latents.of(vae.model, x).log_density(vae.model, x)
        log_px = torch.logsumexp(f(grid.expand(-1, len(x), D)), 0) + D * math.log(axis[1] - axis[0])
    return vae, x, log_px


@pytest.mark.parametrize(
    "estimator",
    [
        Importance(4000),
        Refined(1000),
        Refined(1000, family="student_t", guide_weight=0.0),
        Refined(1000, guide_weight=0.5),
        Refined(1000, num_elbo_steps=10),
        AIS(**SHORT_AIS),
        pytest.param(AIS(**SHORT_AIS, start="prior"), marks=pytest.mark.slow),
    ],
    ids=["importance", "refined", "student_t", "mixture", "polished", "ais", "ais_from_prior"],
)
def test_nonlinear_models_within_four_standard_errors(nonlinear, estimator):
    vae, x, log_px = nonlinear
    evidence = estimator(vae.model, vae.guide, x)
    reliable = ~(evidence.pareto_k > 0.7)
    assert reliable.double().mean() > 0.7
    z = ((evidence.log_px - log_px) / evidence.se)[reliable]
    assert z.abs().max() < 4.5  # of 60: a chance of 4e-4 if z is normal
    assert evidence.elbo.mean() < log_px.mean()


@pytest.mark.slow
@pytest.mark.parametrize("start", ["auto", "guide"])
def test_standard_errors_of_ais_are_calibrated(nonlinear, start):
    """Over 200 repeats. One estimate's z-score is heavy-tailed: 32 chains may miss the few with small weights."""
    vae, x, log_px = nonlinear
    x, log_px = x[:4].repeat_interleave(200, 0), log_px[:4].repeat_interleave(200)
    evidence = AIS(32, 15, 3, start=start)(vae.model, vae.guide, x)
    squares = torch.stack([evidence.log_px - log_px, evidence.se]).square().reshape(2, 4, 200).mean(-1)
    ratio = (squares[0] / squares[1]).sqrt()
    assert ((ratio > 0.8) & (ratio < 1.25)).all()


@pytest.mark.parametrize("make", [partial(Importance, 1000), partial(Refined, 1000)])
def test_reported_standard_errors_are_calibrated(nonlinear, make):
    """z-scores over 200 repeats have sd within [0.8, 1.25] where k < 0.7, as one batch of repeated datapoints."""
    vae, x, log_px = nonlinear
    x, log_px = x[:4].repeat_interleave(200, 0), log_px[:4].repeat_interleave(200)
    evidence = make()(vae.model, vae.guide, x)
    z = ((evidence.log_px - log_px) / evidence.se).reshape(4, 200)
    k = evidence.pareto_k.reshape(4, 200).nan_to_num(0.0).median(1).values
    assert (k < 0.7).any()
    for row in z[k < 0.7]:
        assert 0.8 < row.std() < 1.25


def test_refined_is_exact_where_the_posterior_is_gaussian(ppca):
    x = ppca.evidence.sample((50,))
    ppca.set_exact_guide(shift=3.0)
    evidence = Refined(10)(ppca.vae.model, ppca.vae.guide, x)
    assert (evidence.log_px - ppca.evidence.log_prob(x)).abs().max() < 1e-4
    assert evidence.ess.min() > 9.99


def test_a_bad_guide_makes_the_diagnostics_shout_and_refined_is_still_right(ppca):
    x = ppca.evidence.sample((50,))
    ppca.set_exact_guide(shift=3.0)
    importance = Importance(1000)(ppca.vae.model, ppca.vae.guide, x)
    assert importance.unreliable.all()
    refined = Refined(1000)(ppca.vae.model, ppca.vae.guide, x)
    assert not refined.unreliable.any()
    torch.testing.assert_close(refined.log_px, ppca.evidence.log_prob(x), atol=1e-4, rtol=0)
    assert (refined.elbo < refined.log_px - 3).all()  # KL = 9/2 a dimension or more: the guide's own ELBO says so


def test_polishing_finds_the_gaussian_of_the_highest_elbo():
    """Of a posterior like exp(u − eᵘ): N(−½, 1) has it, where Laplace's is N(0, 1)."""
    zero = torch.zeros(200, 1).double()
    q = Refined(1, num_elbo_steps=300).proposal(lambda u: (u - u.exp()).sum(-1), zero, zero + 1)
    assert q.loc.mean().item() == pytest.approx(-0.5, abs=4.5 * q.loc.std().item() / math.sqrt(200))


def test_refined_finds_the_modes_that_the_guide_knows():
    """z = ±3, narrowly, and a decoder that hardly tells which: a Gaussian at one mode would miss log 2 unseen."""
    prior, guide = (partial(family, num_components=2) for family in (Mixture, MixtureGuide))
    likelihood = partial(Gaussian, scale="fixed", init_scale=1.0)
    vae = VAE.build([1], 1, MLP([]), prior, likelihood, guide).double()
    scale, slope = 0.1, 0.1
    with torch.no_grad():
        vae.prior.loc.copy_(torch.tensor([[-3.0], [3.0]]))
        vae.prior.log_scale.fill_(math.log(scale))
        vae.decoder[0].weight.fill_(slope)
        vae.decoder[0].bias.zero_()
        vae.posterior.logits.weight.zero_()
        vae.posterior.logits.bias.zero_()
        vae.posterior.loc_log_scale[0].weight.zero_()
        log_scale = math.log(1.2 * scale)
        vae.posterior.loc_log_scale[0].bias.copy_(torch.tensor([-3.0, log_scale, 3.0, log_scale]))
    x = torch.linspace(-1, 1, 20).double()
    each = torch.stack([Normal(m, math.hypot(1, slope * scale)).log_prob(x) for m in (-3 * slope, 3 * slope)])
    evidence = Refined(5000)(vae.model, vae.guide, x.unsqueeze(-1))
    assert ((evidence.log_px - (each.logsumexp(0) - math.log(2))).abs() < 4 * evidence.se).all()


STARTS = ["auto", "guide", pytest.param("prior", marks=pytest.mark.slow)]


@pytest.mark.parametrize("start", STARTS)
def test_ais_on_a_linear_model(ppca, start):
    x = ppca.evidence.sample((50,))
    evidence = AIS(**SHORT_AIS, start=start)(ppca.vae.model, ppca.vae.guide, x)
    error, se = evidence.log_px - ppca.evidence.log_prob(x), evidence.se.square().mean().sqrt()
    assert error.abs().max() < 4.5 * se
    assert 0.7 < error.square().mean().sqrt() / se < 1.4
    assert ((evidence.extra["acceptance"] > 0.4) & (evidence.extra["acceptance"] < 0.95)).all()


def test_ais_comes_nearer_to_a_higher_target(ppca):
    x = ppca.evidence.sample((50,))
    vae, estimators = ppca.vae, (AIS(8, 10, num_leapfrog=2, target_acceptance=target) for target in (0.5, 0.95))
    low, high = (ais(vae.model, vae.guide, x).extra["acceptance"].mean().item() for ais in estimators)
    assert abs(low - 0.5) < abs(high - 0.5)
    assert abs(high - 0.95) < abs(low - 0.95)


@pytest.mark.parametrize("start", ["auto", "prior"])
def test_ais_estimate_of_px_is_unbiased(ppca, start):
    x = ppca.evidence.sample((1,)).expand(2000, 5)
    evidence = AIS(num_samples=2, num_temperatures=4, num_leapfrog=2, start=start)(ppca.vae.model, ppca.vae.guide, x)
    ratio = (evidence.log_px - ppca.evidence.log_prob(x[0])).exp()
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(len(ratio))


@pytest.mark.parametrize("start", STARTS)
def test_bdmc_sandwiches_the_exact_value(ppca, start):
    torch.manual_seed(11)
    bdmc = BDMC(**SHORT_AIS, start=start)
    from pyro_vae.marginal.bdmc import simulate

    state = torch.get_rng_state()
    x, _ = simulate(ppca.vae.model, ppca.evidence.sample((200,)))
    torch.set_rng_state(state)
    evidence = bdmc(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((200,)))
    exact = ppca.evidence.log_prob(x)
    lower, upper = evidence.log_px - exact, evidence.extra["log_px_upper"] - exact
    # bounds in expectation: within their own standard error over the 200 datapoints
    assert lower.mean() < 4.5 * lower.std() / math.sqrt(200)
    assert upper.mean() > -4.5 * upper.std() / math.sqrt(200)
    assert evidence.extra["gap"].mean() > 0
    assert evidence.extra["gap"].mean() < 0.5
    torch.testing.assert_close(evidence.extra["gap"], evidence.extra["log_px_upper"] - evidence.log_px)


def test_simulated_data_come_with_draws_of_their_posterior(ppca):
    """z − E[z | x] has the posterior's covariance, whatever x is."""
    from pyro_vae.marginal.bdmc import simulate

    x, u = simulate(ppca.vae.model, torch.zeros(20_000, 5, dtype=torch.float64))
    posterior = ppca.posterior(x)
    whitened = torch.linalg.solve_triangular(posterior.scale_tril, (u - posterior.mean).unsqueeze(-1), upper=False)
    covariance = whitened[:, :, 0].mT.cov()
    assert (covariance - torch.eye(2)).abs().max() < 4.5 * math.sqrt(2 / 20_000)


def test_exact_on_linear_models(ppca):
    x = ppca.evidence.sample((30,))
    evidence = Exact(chunk_size=56)(ppca.vae.model, ppca.vae.guide, x)
    torch.testing.assert_close(evidence.log_px, ppca.evidence.log_prob(x))


def test_exact_keeps_its_digits_in_float32():
    """The least scale that is allowed, as many dimensions as MNIST has: the quadratic is 10^6 high at the origin."""
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.01)
    vae = VAE.build([784], 20, MLP([]), StandardNormal, likelihood, FullCovariance)
    with torch.no_grad():
        vae.decoder[0].weight.normal_(0, 0.1)
        x = vae.sample(5)
        W, b = vae.decoder[0].weight.double(), vae.decoder[0].bias.double()
        p_x = torch.distributions.LowRankMultivariateNormal(b, W, torch.full((784,), 1e-4).double())
        found = Exact()(vae.model, vae.guide, x).log_px
    assert (found - p_x.log_prob(x.double())).abs().max() < 0.02


def test_exact_refuses_nonlinear_models(nonlinear):
    vae, x, _ = nonlinear
    with pytest.raises(BadInput, match="estimator=exact needs a linear-Gaussian model.*auto"):
        Exact()(vae.model, vae.guide, x)


def test_exact_refuses_other_priors_however_sharp_the_likelihood():
    """Beside a likelihood of 1 / σ² = 10⁴ the Hessian of a mixture prior is rounding."""
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.01)
    vae = VAE.build([50], 2, MLP([]), partial(Mixture, num_components=3), likelihood, FullCovariance).double()
    with pytest.raises(BadInput, match="estimator=exact needs a linear-Gaussian model"):
        Exact()(vae.model, vae.guide, torch.randn(4, 50).double())


def test_exact_refuses_models_of_which_one_sharp_part_is_linear():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc = torch.stack([z[..., 0], torch.tanh(2 * z[..., 1])], -1)
            pyro.sample("x", Normal(loc, torch.tensor([0.004, 0.5]).double()).to_event(1), obs=x)

    with pytest.raises(BadInput, match="estimator=exact needs a linear-Gaussian model"):
        Exact()(model, prior_of(model), torch.randn(20, 2).double())


@pytest.mark.slow
def test_nuts_finds_posterior_and_evidence(ppca):
    x = ppca.evidence.sample((2,))
    ppca.set_exact_guide(widen=2.0, shift=3.0)
    evidence = NUTS(num_samples=2000, num_draws=200)(ppca.vae.model, ppca.vae.guide, x)
    assert ((evidence.log_px - ppca.evidence.log_prob(x)).abs() < 4.5 * evidence.se).all()
    covariance = ppca.posterior(x).covariance_matrix[0]
    correlation = covariance[0, 1].abs() / covariance.diagonal().prod().sqrt()
    assert (evidence.extra["correlation"] - correlation).abs().max() < 0.2
    assert (evidence.extra["loc_error"] - 3).abs().max() < 0.5
    assert (evidence.extra["scale_ratio"] / 2 - 1).abs().max() < 0.25
    with pytest.raises(BadInput, match="num_data=20"):
        NUTS()(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((21,)))


LIKELIHOODS = [Bernoulli, *(partial(Gaussian, scale=s) for s in ("learned", "per_pixel"))]
ESTIMATORS = [Refined(20), AIS(3, 3, start="guide"), BDMC(3, 3, start="guide")]


@pytest.mark.parametrize(("likelihood", "estimator"), every(2, product(LIKELIHOODS, ESTIMATORS), several=True))
def test_every_likelihood_and_image_network(likelihood, estimator):
    from pyro_vae.networks import Conv

    vae = VAE.build([1, 6, 5], 3, Conv([3, 4], hidden=8), StandardNormal, likelihood, Diagonal)
    evidence = estimator(vae.model, vae.guide, torch.rand(7, 1, 6, 5).round())
    assert evidence.log_px.shape == (7,)
    assert evidence.log_px.isfinite().all()


def test_progress_is_told_of_everything_once(ppca):
    x = ppca.evidence.sample((5,))
    annealed = AIS(4, 5, 2, start="guide"), BDMC(4, 5, 2, start="guide", chunk_size=12)
    for estimator in (Importance(30, chunk_size=64), Refined(30, chunk_size=64), *annealed):
        told = []
        estimator(ppca.vae.model, ppca.vae.guide, x, progress=told.append)
        assert sum(told) == 5 * estimator.num_samples


@pytest.mark.parametrize("estimator", [Importance, Refined])
def test_a_curve_is_the_estimate_from_the_first_samples(estimator, ppca):
    x = ppca.evidence.sample((6,))
    ppca.set_exact_guide(widen=1.5)
    torch.manual_seed(0)
    evidence = estimator([300, 1, 20], chunk_size=50)(ppca.vae.model, ppca.vae.guide, x)
    assert [point.num_samples for point in (*evidence.curve, evidence)] == [1, 20, 300]
    torch.manual_seed(0)
    alone = estimator(300, chunk_size=50)(ppca.vae.model, ppca.vae.guide, x)
    torch.testing.assert_close(evidence.log_px, alone.log_px)
    assert alone.curve == ()
    if estimator is Importance:  # E log p̂_K rises with K, towards log p(x)
        x = x[:1].expand(2000, 5)
        evidence = Importance([1, 10])(ppca.vae.model, ppca.vae.guide, x)
        assert evidence.curve[0].log_px.mean() < evidence.log_px.mean() < ppca.evidence.log_prob(x[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Importance([]), lambda: Importance([5, 0]), lambda: Importance("many"), lambda: Refined(0),
        lambda: Refined(family="cauchy"), lambda: Refined(df=0), lambda: Refined(guide_weight=1.0),
        lambda: Refined(guide_weight=-0.1), lambda: Refined(num_elbo_steps=-1), lambda: AIS(0),
        lambda: AIS(num_temperatures=0), lambda: AIS(num_leapfrog=0), lambda: AIS(start="end"),
        lambda: AIS(target_acceptance=1.0), lambda: BDMC(start="end"), lambda: NUTS(num_draws=0),
    ],
)  # fmt: skip
def test_refuses_bad_settings(make):
    with pytest.raises(BadInput, match=r"^[a-z_]+="):
        make()


@pytest.mark.parametrize(
    "estimator",
    [
        Importance(3000),
        Refined(10),
        pytest.param(AIS(**SHORT_AIS), marks=pytest.mark.slow),
        Exact(),
        pytest.param(NUTS(1000, num_draws=100), marks=pytest.mark.slow),
    ],
    ids=["importance", "refined", "ais", "exact", "nuts"],
)
def test_conditional_models(estimator):
    """p(z | y) = N(y, 1), p(x | z) = N(z, 1): p(x | y) = N(y, 2), in slices that keep x and y together."""
    dist = pyro.distributions

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + y) / 2, 0.9))

    x, y = torch.linspace(-2, 3, 6, dtype=torch.float64), torch.tensor([0.0, 3, -2, 5, 1, -4], dtype=torch.float64)
    estimator.chunk_size = 48
    evidence = estimator(model, guide, x, y)
    expected = dist.Normal(y, math.sqrt(2)).log_prob(x)
    assert ((evidence.log_px - expected).abs() < 4.5 * evidence.se + 1e-9).all()
