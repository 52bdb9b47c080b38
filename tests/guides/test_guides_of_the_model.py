"""Guides that look at the model's log p(x, z), and those of discrete and degenerate latents."""

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import MultivariateNormal

from pyro_vae.errors import BadInput
from pyro_vae.guides import Categorical, Diagonal, Enumerated, Point, SemiAmortized

N, D, K = 4, 3, 5


@pytest.fixture
def h():
    return torch.randn(N, 6, dtype=torch.float64)


class LinearGaussian:
    """log p(x, z) = −½ zᵀ Λ z + bᵀ z: the best diagonal q has μ = Λ⁻¹ b and σ_i² = 1/Λ_ii."""

    def __init__(self):
        A = torch.randn(N, D, D).double()
        self.precision = A @ A.mT + 2 * torch.eye(D).double()
        self.b = 2 * torch.randn(N, D).double()

    def __call__(self, z):
        return -0.5 * torch.einsum("sni,nij,snj->sn", z, self.precision, z) + (z * self.b).sum(-1)

    @property
    def diagonal(self):
        return self.precision.diagonal(dim1=-2, dim2=-1)

    @property
    def mode(self):
        return torch.linalg.solve(self.precision, self.b)

    def elbo(self, q):
        """In closed form, without the constant of the entropy."""
        q = q.base_dist
        at_mean = self(q.loc.unsqueeze(0))[0]
        return at_mean - 0.5 * (self.diagonal * q.variance).sum(-1) + q.scale.log().sum(-1)


@pytest.fixture
def model():
    return LinearGaussian()


def test_many_steps_reach_the_best_diagonal_posterior(h, model):
    guide = SemiAmortized(6, D, num_steps=300, step_size=0.4, num_particles=8).double()
    with torch.no_grad():
        q = guide(h, model).base_dist
    torch.testing.assert_close(q.loc, model.mode)
    torch.testing.assert_close(q.scale, model.diagonal.rsqrt())


def test_a_step_is_that_of_the_natural_gradient(h, model):
    guide = SemiAmortized(6, D, num_steps=1, step_size=0.01, num_particles=8).double()
    loc, log_scale = guide.loc_log_scale(h).chunk(2, -1)
    variance = (2 * log_scale).exp()
    q = guide(h, model).base_dist
    grad_loc = model.b - (model.precision @ loc.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(q.loc, loc + 0.01 * variance * grad_loc)
    torch.testing.assert_close(q.scale.log(), log_scale + 0.005 * (1 - variance * model.diagonal))


def test_a_step_is_at_most_a_standard_deviation_and_a_factor_e(h):
    guide = SemiAmortized(6, D, num_steps=1).double()
    loc, log_scale = guide.loc_log_scale(h).chunk(2, -1)
    q = guide(h, lambda z: -1e6 * (z - 100).square().sum(-1)).base_dist
    torch.testing.assert_close(q.loc, loc + log_scale.exp())
    torch.testing.assert_close(q.scale, (log_scale - 1).exp())


def test_elbo_rises_with_every_step(h, model):
    guide = SemiAmortized(6, D, step_size=0.3, num_particles=8).double()
    start = Diagonal(6, D).double()
    start.loc_log_scale = guide.loc_log_scale
    elbos = [model.elbo(start(h))]
    for guide.num_steps in (1, 2, 3, 5, 8, 20):
        elbos.append(model.elbo(guide(h, model)))
    assert (torch.stack(elbos).diff(dim=0) > 0).all()


def test_gradient_goes_through_the_steps_to_the_encoder_and_the_model(h, model):
    """Of log q(z) for a fixed z and of the ELBO, for h, the guide's weights, Λ and b, against finite differences."""
    guide = SemiAmortized(6, D, num_steps=3).double()
    z = torch.randn(N, D).double()

    def f(h, weight, precision, b):
        model.precision, model.b = precision, b
        log_joint = lambda z: model(z) - 0.1 * z.pow(4).sum(-1)  # noqa: E731
        q = torch.func.functional_call(guide, {"loc_log_scale.weight": weight}, (h, log_joint))
        return q.log_prob(z), model.elbo(q)

    inputs = (h, guide.loc_log_scale.weight, model.precision, model.b)
    assert torch.autograd.gradcheck(f, tuple(t.detach().requires_grad_() for t in inputs))


def test_semi_amortized_is_the_same_with_and_without_gradients(h, model):
    guide = SemiAmortized(6, D).double()
    z = torch.randn(N, D).double()
    expected = guide(h, model).log_prob(z)
    torch.manual_seed(5)
    with torch.no_grad():
        torch.testing.assert_close(guide(h, model).log_prob(z), expected)
    with torch.inference_mode():
        torch.testing.assert_close(guide(h, model).log_prob(z), expected)
    gradient = torch.func.grad(lambda z: guide(h, model).log_prob(z).sum())(z)
    q = guide(h, model).base_dist
    torch.testing.assert_close(gradient, (q.loc - z) / q.variance)


@pytest.mark.parametrize(("num_particles", "dim"), [(2, 3), (4, 2), (4, 7), (8, 20)])
def test_points_have_the_moments_of_the_normal(num_particles, dim):
    noise = SemiAmortized(6, dim, num_particles=num_particles).noise
    torch.manual_seed(9)
    assert torch.equal(noise, SemiAmortized(6, dim, num_particles=num_particles).noise)
    assert noise.shape == (num_particles, dim)
    torch.testing.assert_close(noise.mean(0), torch.zeros(dim))
    covariance = noise.T @ noise / num_particles
    torch.testing.assert_close(covariance.diagonal(), torch.ones(dim))
    block = covariance[: num_particles // 2, : num_particles // 2]
    torch.testing.assert_close(block, torch.eye(len(block)))


def mixture_of_gaussians():
    """x | z = e_k ~ N(m_k, Σ), p(z = e_k) = π_k: the log-joint of N datapoints, and its parts."""
    x, means = torch.randn(N, 2).double(), torch.randn(K, 2).double().requires_grad_()
    log_pi = torch.randn(K).double().log_softmax(-1).requires_grad_()
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()
    log_joint = lambda z: z @ log_pi + MultivariateNormal(z @ means, covariance).log_prob(x)  # noqa: E731
    components = torch.stack([log_pi[k] + MultivariateNormal(means[k], covariance).log_prob(x) for k in range(K)], -1)
    return log_joint, components, (means, log_pi)


def test_enumerated_is_bayes_rule_and_its_elbo_the_evidence(h):
    log_joint, components, parameters = mixture_of_gaussians()
    q = Enumerated(6, K)(h, log_joint)
    torch.testing.assert_close(q.probs, components.exp() / components.exp().sum(-1, keepdim=True))
    elbo = (q.probs * (components - q.logits)).sum(-1)
    evidence = components.exp().sum(-1).log()
    torch.testing.assert_close(elbo, evidence)
    gradients = [torch.autograd.grad(v.sum(), parameters, retain_graph=True) for v in (elbo, evidence)]
    torch.testing.assert_close(*gradients)
    # the posterior itself moves with the model
    assert torch.autograd.grad(q.probs[:, 0].sum(), parameters)[0].abs().min() > 0
    assert not list(Enumerated(6, K).parameters())


def test_categorical_is_the_softmax_of_its_logits(h):
    guide = Categorical(6, K).double()
    q = guide(h)
    torch.testing.assert_close(q.mean, guide.logits(h).softmax(-1))
    one_hot = torch.eye(K).double()
    torch.testing.assert_close(q.log_prob(one_hot[2].expand(N, K)), guide.logits(h).log_softmax(-1)[:, 2])
    assert not q.has_rsample


def test_point_is_its_location(h):
    guide = Point(6, D).double()
    q = guide(h)
    for z in (q.rsample(), q.mean):
        torch.testing.assert_close(z, guide.loc(h))
        assert z.requires_grad
    assert (q.log_prob(q.rsample()) == 0).all()
    assert (q.log_prob(q.rsample() + 1) == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("guide", "dim"), [(Categorical, K), (Enumerated, K), (Point, D)])
def test_plates_of_samples_and_datapoints(guide, dim, dtype):
    q, h = guide(6, dim).to(dtype), torch.randn(N, 6, dtype=dtype)
    log_pi = torch.randn(dim, dtype=dtype)

    def program():
        with pyro.plate("num_samples", 7, dim=-2), pyro.plate("data", N, dim=-1):
            pyro.sample("z", q(h, lambda z: z @ log_pi))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (7, N, dim)
    assert trace.nodes["z"]["value"].dtype == dtype
    assert trace.nodes["z"]["log_prob"].shape == (7, N)


@pytest.mark.parametrize("guide", [SemiAmortized, Enumerated])
def test_a_missing_model_is_named(guide, h):
    with pytest.raises(BadInput, match="needs a single stochastic layer"):
        guide(6, D).double()(h)
