"""Programs and callers that are not this library's own: other latents, deterministic sites, no gradients outside."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import analysis
from pyro_vae.errors import BadInput
from pyro_vae.guides import Categorical as CategoricalGuide
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import AIS, BDMC, ELBO, NUTS, Exact, Importance, Prior, Refined
from pyro_vae.networks import MLP
from pyro_vae.priors import Categorical
from pyro_vae.vae import VAE

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
SHORT = {"num_samples": 4, "num_temperatures": 4, "num_leapfrog": 2}


def observe(mean, x):
    pyro.sample("x", dist.Normal(mean.unsqueeze(-1) + x.new_zeros(2), 1.0).to_event(1), obs=x)


def model_of(latent):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            observe(pyro.sample("z", latent), x)

    return model


def with_deterministic_sites():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            observe(pyro.deterministic("twice", 2 * z), x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            loc = pyro.deterministic("loc", 0.4 * x.sum(-1))
            pyro.sample("z", dist.Normal(loc, 0.5))

    # z ~ N(0, 1), x = 2 z (1, 1) + noise
    covariance = torch.eye(2).double() + 4
    return model, guide, dist.MultivariateNormal(torch.zeros(2).double(), covariance)


def test_deterministic_sites_are_neither_points_nor_observations():
    model, guide, p_x = with_deterministic_sites()
    for estimator in (Importance(4000), Refined(400), AIS(64, 8, 2)):
        evidence = estimator(model, guide, X)
        assert ((evidence.log_px - p_x.log_prob(X)).abs() < 4.5 * evidence.se + 1e-6).all()
    evidence = BDMC(16, 10, 2)(model, guide, X)
    assert evidence.extra["gap"].mean().abs() < 0.5


class WithoutSupport(dist.TorchDistribution):
    """N(0, 1) that says no more of itself than it must."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, base):
        self.base = base
        super().__init__(base.batch_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return WithoutSupport(self.base.expand(batch_shape))

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value)


def test_a_proposal_need_not_tell_its_support():
    model, _, p_x = with_deterministic_sites()
    evidence = Importance(20_000)(model, model_of_prior_alone(WithoutSupport(dist.Normal(X.new_zeros(()), 1.0))), X)
    assert ((evidence.log_px - p_x.log_prob(X)).abs() < 4.5 * evidence.se).all()
    assert not evidence.pareto_k.isnan().any()


def test_gradients_are_the_estimators_own_matter(small_vae):
    x = torch.rand(3, 6).double().round()
    estimators = [Importance(20), Refined(20), Refined(20, num_elbo_steps=3), AIS(**SHORT), NUTS(5, 6), ELBO(5)]

    def results(x):
        pyro.set_rng_seed(1)
        values = [estimator(small_vae.model, small_vae.guide, x).log_px for estimator in estimators]
        found = analysis.gaps(small_vae.model, small_vae.guide, x, Importance(20), num_steps=4)
        return [*values, *found.values()]

    expected = results(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = results(x.clone())  # within inference mode, an inference tensor
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other)
    assert all(p.grad is None for p in small_vae.parameters())


@pytest.mark.parametrize("prior", [dist.Pareto(torch.ones(()).double(), 3.0), dist.Poisson(torch.ones(()).double())])
def test_latents_that_gradients_cannot_follow_are_refused(prior):
    model = model_of(prior)
    message = "site z is discrete" if isinstance(prior, dist.Poisson) else "site z has different bounds"
    for estimator in (Refined(10), AIS(**SHORT), NUTS(10, 10)):
        with pytest.raises(BadInput, match=f"{message}.*use estimator=importance"):
            estimator(model, model_of_prior_alone(prior), X)
    assert Importance(100)(model, model_of_prior_alone(prior), X).log_px.isfinite().all()


def model_of_prior_alone(prior):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", prior)

    return guide


def test_labels_suit_the_programs():
    model, guide, _ = with_deterministic_sites()
    y = torch.zeros(len(X))
    for call in (Importance(4), AIS(**SHORT), analysis.surgery):
        with pytest.raises(BadInput, match="model takes no labels, but y is given: leave out y"):
            call(model, guide, X, y=y)
    with pytest.raises(BadInput, match="guide needs labels, but y is not given: give y"):
        Importance(4)(model, lambda x, y: guide(x), X)


def test_no_data():
    model, guide, _ = with_deterministic_sites()
    for estimator in (Importance(10), Refined(10), AIS(**SHORT), NUTS(10, 10), Exact()):
        with pytest.raises(BadInput, match="x is empty"):
            estimator(model, guide, X[:0])


def test_weights_of_discrete_latents_have_no_tail_and_are_judged_by_their_effective_sample_size():
    vae = VAE.build([6], 3, MLP([8]), Categorical, Bernoulli, CategoricalGuide).double()
    with torch.no_grad():
        for p in vae.decoder.parameters():
            p.mul_(2)
    x = torch.rand(40, 6).double().round()
    corners = torch.eye(3).double().unsqueeze(1).expand(3, 40, 3)
    exact = vae.log_joint(x, None, corners).logsumexp(0)
    for estimator in (Importance([100, 1000]), Prior(1000)):
        evidence = estimator(vae.model, vae.guide, x)
        assert ((evidence.log_px - exact).abs() < 4.5 * evidence.se).all()
        assert evidence.pareto_k.isnan().all()
        assert evidence.tail is None
        assert evidence.ess.min() > 100
        assert not evidence.unreliable.any()
        assert all(point.pareto_k.isnan().all() for point in evidence.curve)


def test_a_covariance_of_too_few_draws_is_refused(small_vae):
    with pytest.raises(BadInput, match="num_draws=2 is too small for a covariance in 2 dimensions"):
        NUTS(10, 2)(small_vae.model, small_vae.guide, torch.zeros(1, 6).double())


def test_chunks_share_the_start_of_their_chains(small_vae, monkeypatch):
    """What is compiled is known by its identity: a start of its own for each chunk would be compiled anew."""
    from pyro_vae.marginal import posterior

    starts, prior_of = [], posterior.prior_of
    monkeypatch.setattr(posterior, "prior_of", lambda model: starts.append(prior_of(model)) or starts[-1])
    AIS(**SHORT, start="prior", chunk_size=4)(small_vae.model, small_vae.guide, torch.zeros(5, 6).double())
    assert len(starts) == 1


def test_evidence_moves_to_the_cpu_whole(small_vae):
    evidence = Importance([2, 60])(small_vae.model, small_vae.guide, torch.zeros(5, 6).double())
    moved = evidence.cpu()
    assert torch.equal(moved.log_px, evidence.log_px)
    assert torch.equal(moved.tail, evidence.tail)
    assert torch.equal(moved.curve[0].se, evidence.curve[0].se)
    assert moved.num_samples == 60


def guide_of_two(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, 0.5).to_event(1))


def test_sites_that_come_and_go_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            for d in pyro.plate("columns", 2, subsample_size=1):
                pyro.sample(f"x{d}", dist.Normal(z[..., d], 0.3), obs=x[:, d])

    with pytest.raises(BadInput, match="site x[01] is not in every run of the model"):
        Importance(4)(model, guide_of_two, X)


def test_the_support_of_a_guide_is_told_in_one_line():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(x - 1, x + 1).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.3).to_event(1), obs=x)

    def narrow(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Uniform(x - 0.1, x + 0.1).to_event(1))

    with pytest.raises(BadInput, match=r"lower_bound=\[\.\.\.\]") as error:
        Importance(4)(model, narrow, X)
    assert "\n" not in str(error.value)
