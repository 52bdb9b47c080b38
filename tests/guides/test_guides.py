import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import MultivariateNormal, Normal
from pyro.nn import ConditionalAutoRegressiveNN
from scipy import stats
from torch.distributions import kl_divergence

from pyro_vae import guides
from pyro_vae.errors import BadInput
from pyro_vae.guides import (
    CholeskyNormal,
    Diagonal,
    FullCovariance,
    InverseAutoregressive,
    LowRank,
    Mixture,
    NeuralSpline,
    SemiAmortized,
)

IAF = partial(InverseAutoregressive, hidden=[8])
SPLINE = partial(NeuralSpline, num_bins=4, bound=3.0, hidden=[8])
LOW_RANK = partial(LowRank, rank=2)

WITH_KL = {"diagonal": Diagonal, "full_covariance": FullCovariance, "low_rank": LOW_RANK, "semi": SemiAmortized}
FLOWS = {"inverse_autoregressive": IAF, "neural_spline": SPLINE}
SMOOTH = {**WITH_KL, **FLOWS}  # a draw is a differentiable function of its noise
CONTINUOUS = {**SMOOTH, "mixture": Mixture}


def each(families):
    return pytest.mark.parametrize("guide", families.values(), ids=families.keys())


def log_joint(z):
    """Of some model; it differs between datapoints."""
    shift = torch.linspace(-1, 1, z.shape[-2], dtype=z.dtype).unsqueeze(-1)
    return -(z - shift).square().sum(-1) - 0.1 * z.pow(4).sum(-1) + z.prod(-1).sin()


@pytest.fixture
def h():
    return torch.randn(4, 6, dtype=torch.float64)


def make(guide, latent_dim=3, std=0.25):
    """A guide in general position: what is zero at the start is not."""
    q = guide(6, latent_dim).double()
    with torch.no_grad():
        for p in q.parameters():
            p.copy_(std * torch.randn_like(p))
    return q


def moments(q):
    """Mean [N, D] and covariance [N, D, D] of a Gaussian."""
    covariance = getattr(q, "covariance_matrix", None)
    if covariance is None:
        covariance = torch.diag_embed(q.variance)
    return q.mean.detach().numpy(), covariance.detach().numpy()


def parameters(q, h):
    return [p for p in (h, *q.parameters()) if p.requires_grad]


# Densities --------------------------------------------------------------------------------------------


@each(WITH_KL)
def test_log_prob_of_own_draws_and_of_other_values_match_scipy(guide, h):
    q = make(guide)(h, log_joint)
    mean, covariance = moments(q)
    own, other = q.rsample(), torch.randn(4, 3, dtype=torch.float64)
    for z in (own, other, own.clone()):
        expected = [
            stats.multivariate_normal(m, c).logpdf(v) for m, c, v in zip(mean, covariance, z.detach(), strict=True)
        ]
        torch.testing.assert_close(q.log_prob(z).detach(), torch.tensor(np.array(expected)))


@each(FLOWS)
def test_log_prob_of_a_flow_is_the_change_of_variables(guide, h):
    """log q(f(ε)) = log N(ε) − log |det ∂f/∂ε|, the Jacobian by autograd; no inverse of Pyro's."""
    guide = make(guide)
    q = guide(h)

    def f(noise):
        for transform in guide(h).transforms:  # another instance: nothing is cached
            noise = transform(noise)
        return noise

    for noise in (q.base_dist.sample(), 2 * torch.randn(4, 3, dtype=torch.float64)):
        jacobian = torch.autograd.functional.jacobian(f, noise)[range(4), :, range(4)]
        expected = q.base_dist.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(q.log_prob(f(noise)), expected)
        assert (jacobian.det() - 1).abs().min() > 0.01  # it is not the identity


@each(FLOWS)
def test_draws_of_a_flow_are_of_its_density(guide, h):
    """ε = f⁻¹(z) is standard normal: its moments, and those of its squares."""
    q = make(guide)(h)
    with torch.no_grad():
        noise = q.rsample((20_000,)).clone()
        for transform in reversed(q.transforms):
            noise = transform.inv(noise)
        base = q.base_dist.base_dist
        u = (noise - base.loc) / base.scale
    for power, mean, variance in ((1, 0, 1), (2, 1, 2)):
        assert ((u.pow(power).mean(0) - mean).abs() < 4.5 * (variance / len(u)) ** 0.5).all()


def test_log_prob_of_a_mixture_is_written_out(h):
    guide = make(Mixture)
    q = guide(h)
    loc, log_scale = (t.detach().numpy() for t in guide.loc_log_scale(h).chunk(2, -1))
    weights = guide.logits(h).softmax(-1).detach().numpy()
    for z in (q.rsample(), torch.randn(4, 3, dtype=torch.float64)):
        x = z.detach().numpy()[:, None]
        density = stats.norm(loc, np.exp(log_scale)).pdf(x).prod(-1)
        torch.testing.assert_close(q.log_prob(z).detach(), torch.tensor(np.log((weights * density).sum(-1))))


@each(CONTINUOUS)
def test_density_integrates_to_one(guide):
    q = make(guide, latent_dim=2, std=0.15)(torch.randn(1, 6, dtype=torch.float64), log_joint)
    with torch.no_grad():
        draws = q.sample((10_000,))[:, 0]
        C = torch.linalg.cholesky(draws.T.cov())
        axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
        u = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
        # ∫ q(z) dz over z = mean + C u
        mass = q.log_prob(draws.mean(0) + u @ C.T).exp().sum() * C.det() * (axis[1] - axis[0]) ** 2
    # a flow's density has kinks, which limit the quadrature
    assert mass.item() == pytest.approx(1, abs=1e-3 if guide in FLOWS.values() else 1e-9)


# Draws ------------------------------------------------------------------------------------------------


@each(CONTINUOUS)
def test_draws_have_the_mean_and_variance_that_the_distribution_states(guide, h):
    q = make(guide)(h, log_joint)
    with torch.no_grad():
        z = q.rsample((20_000,))
    assert z.shape == (20_000, 4, 3)
    if guide in FLOWS.values():
        with pytest.raises(NotImplementedError):
            _ = q.mean
        return
    assert ((z.mean(0) - q.mean).abs() < 4.5 * z.std(0) / math.sqrt(len(z))).all()
    squares = (z - q.mean).square()
    assert ((squares.mean(0) - q.variance).abs() < 4.5 * squares.std(0) / math.sqrt(len(z))).all()


@each(SMOOTH)
def test_gradients_of_a_draw_and_its_density_against_finite_differences(guide, h):
    """What is kept of a draw must not hide the dependence of log q(z) on the parameters."""
    q = make(guide)
    z0 = torch.randn(4, 3, dtype=torch.float64)

    def f(features):
        torch.manual_seed(3)
        distribution = q(features, log_joint)
        z = distribution.rsample()
        return distribution.log_prob(z), distribution.log_prob(z.clone()), (z * z0).sum(-1), distribution.log_prob(z0)

    assert torch.autograd.gradcheck(f, (h.clone().requires_grad_(),))


@each(CONTINUOUS)
def test_density_of_an_own_draw_equals_that_of_its_copy(guide, h):
    """Values and parameters' gradients: drawn with a graph, without, made a leaf, or changed in place."""
    guide, h = make(guide), h.requires_grad_()
    q = guide(h, log_joint)
    for draw in (q.rsample, lambda: q.rsample((2,)), q.sample, lambda: q.sample().requires_grad_()):
        z = draw()
        own, copy = q.log_prob(z), q.log_prob(z.clone())
        torch.testing.assert_close(own, copy)
        wanted = parameters(guide, h)
        if z.is_leaf and z.requires_grad:
            wanted.append(z)
        gradients = [torch.autograd.grad(v.sum(), wanted, retain_graph=True, allow_unused=True) for v in (own, copy)]
        torch.testing.assert_close(*gradients)
        assert gradients[1][0].abs().sum() > 0
    with torch.no_grad():
        q = guide(h, log_joint)
        z = q.rsample()
        z += 1
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))
    z = q.sample().requires_grad_()
    torch.testing.assert_close(*[torch.autograd.grad(q.log_prob(v).sum(), z)[0] for v in (z, z.clone())])


@each(FLOWS)
def test_density_of_an_own_draw_takes_no_pass_of_the_networks(guide, h):
    guide, passes = make(guide), []
    for network in guide.modules():
        if isinstance(network, ConditionalAutoRegressiveNN):
            network.register_forward_hook(lambda *_: passes.append(1))
    q = guide(h)
    z = q.rsample()
    drawn = len(passes)
    q.log_prob(z)
    assert len(passes) == drawn
    q.log_prob(z.clone())
    assert len(passes) >= drawn + 3


@each(FLOWS)
def test_the_transforms_of_a_flow_depend_on_the_features(guide, h):
    guide = make(guide)
    torch.nn.init.zeros_(guide.loc_log_scale.weight)  # the base does not
    log_q = guide(h).log_prob(torch.full((3,), 0.5).double())
    assert log_q.shape == (4,)
    assert (log_q.diff().abs() > 1e-3).all()


@each(CONTINUOUS)
def test_one_value_for_all_datapoints(guide, h):
    q, z = make(guide)(h, log_joint), torch.randn(3).double()
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.expand(4, 3)))


@each(CONTINUOUS)
def test_gradients_of_the_density_in_z(guide, h):
    """By torch.func and by autograd; against finite differences."""
    q = make(guide)(h, log_joint)
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: q.log_prob(z), (z,))
    expected = torch.autograd.grad(q.log_prob(z).sum(), z, retain_graph=True)[0]
    torch.testing.assert_close(torch.func.grad(lambda z: q.log_prob(z).sum())(z), expected)


@each(CONTINUOUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_plates_of_samples_and_datapoints(guide, dtype, latent_dim):
    q = guide(6, latent_dim).to(dtype)
    h = torch.randn(4, 6, dtype=dtype)

    def program():
        with pyro.plate("num_samples", 5, dim=-2), pyro.plate("data", 4, dim=-1):
            pyro.sample("z", q(h, log_joint))

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (5, 4, latent_dim)
    assert site["value"].dtype == site["log_prob"].dtype == dtype
    assert site["log_prob"].shape == (5, 4)
    assert site["value"].requires_grad
    torch.testing.assert_close(site["log_prob"], q(h, log_joint).log_prob(site["value"].clone()))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            distribution = q(h, log_joint)
            z = distribution.rsample()
            torch.testing.assert_close(distribution.log_prob(z), distribution.log_prob(z.clone()))


@each(CONTINUOUS)
def test_a_saved_guide_has_the_same_density(guide, h):
    saved = make(guide)
    torch.manual_seed(1)
    loaded = guide(6, 3).double()
    loaded.load_state_dict(saved.state_dict())
    z = torch.randn(5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(saved(h, log_joint).log_prob(z), loaded(h, log_joint).log_prob(z), rtol=0, atol=0)


@each({"full_covariance": FullCovariance, **FLOWS})
def test_starts_as_the_diagonal_guide(guide, h):
    guide, diagonal = guide(6, 3).double(), Diagonal(6, 3).double()
    diagonal.loc_log_scale = guide.loc_log_scale
    z = torch.randn(4, 3, dtype=torch.float64)
    # the derivative of Pyro's spline at its ends is 0.999, not 1
    torch.testing.assert_close(guide(h).log_prob(z), diagonal(h).log_prob(z), rtol=0, atol=2e-3)


# KL ---------------------------------------------------------------------------------------------------


@each(WITH_KL)
def test_analytic_kl_equals_monte_carlo(guide, h):
    q = make(guide)(h, log_joint)
    p = Normal(torch.randn(3).double(), torch.rand(3).double() + 0.5).to_event(1).expand([4])
    with torch.no_grad():
        z = q.sample((100_000,))
        difference = q.log_prob(z) - p.log_prob(z)
    se = difference.std(0) / math.sqrt(len(z))
    assert ((difference.mean(0) - kl_divergence(q, p)).abs() < 4.5 * se).all()


def test_a_gain_is_that_of_the_entries_below_the_diagonal():
    one, half = (FullCovariance(7, 3, gain=gain).double() for gain in (1.0, 0.5))
    for p in one.parameters():
        torch.nn.init.normal_(p)
    half.load_state_dict(one.state_dict())
    h = torch.randn(4, 7).double()
    ones, halves = (guide(h).scale_tril for guide in (one, half))
    torch.testing.assert_close(halves.diagonal(dim1=-2, dim2=-1), ones.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(halves.tril(-1), 0.5 * ones.tril(-1))


@each({"full_covariance": FullCovariance, "low_rank": LOW_RANK})
def test_kl_to_any_factorized_normal(guide, h):
    q = make(guide)(h)
    loc, scale = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3).double() + 0.5
    expected = kl_divergence(
        torch.distributions.MultivariateNormal(q.loc, q.covariance_matrix),
        torch.distributions.MultivariateNormal(loc, torch.diag_embed(scale**2)),
    )
    torch.testing.assert_close(kl_divergence(q, Normal(loc, scale).to_event(1)), expected)
    torch.testing.assert_close(kl_divergence(q.expand([5, 4]), Normal(loc, scale).to_event(1)), expected.expand(5, 4))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, pyro.distributions.Laplace(loc, scale).to_event(1))


# Families ---------------------------------------------------------------------------------------------


def test_full_covariance_is_algorithm_2_of_kingma_and_welling(h):
    """L = L_mask ⊙ L′ + diag(σ), z = μ + Lε, log q = Σ (log N(ε_i; 0, 1) − log σ_i), written out."""
    guide = make(FullCovariance)
    torch.manual_seed(7)
    q = guide(h)
    z = q.rsample()
    torch.manual_seed(7)
    epsilon = torch.randn(4, 3, dtype=torch.float64)
    mu, log_sigma = guide.loc_log_scale(h).chunk(2, -1)
    L_prime = torch.zeros(4, 3, 3).double()
    rows, columns = torch.tril_indices(3, 3, offset=-1)
    L_prime[:, rows, columns] = guide.off_diagonal_gain * guide.off_diagonal(h)
    mask = torch.ones(3, 3).tril(-1).double()
    L = mask * L_prime + torch.diag_embed(log_sigma.exp())
    torch.testing.assert_close(z, mu + torch.einsum("nij,nj->ni", L, epsilon))
    log_q = (-0.5 * epsilon**2 - 0.5 * math.log(2 * math.pi) - log_sigma).sum(-1)
    torch.testing.assert_close(q.log_prob(z), log_q)


def test_cholesky_normal_has_the_gradients_of_multivariate_normal():
    loc = torch.randn(3, dtype=torch.float64, requires_grad=True)
    L = (torch.eye(3, dtype=torch.float64) + 0.3 * torch.ones(3, 3).tril(-1)).requires_grad_()
    ours, theirs = CholeskyNormal(loc, scale_tril=L), MultivariateNormal(loc, scale_tril=L)
    z = ours.sample()
    gradients = [torch.autograd.grad(q.log_prob(z), (loc, L)) for q in (ours, theirs)]
    torch.testing.assert_close(gradients[0], tuple(g.tril() if g.dim() == 2 else g for g in gradients[1]))


def test_cholesky_normal_keeps_to_the_interface_of_multivariate_normal():
    loc, scale_tril = torch.zeros(2).double(), torch.tensor([[1.0, 0.0], [2.0, 0.5]]).double()
    q = CholeskyNormal(loc, scale_tril=scale_tril)
    expanded = q.expand([3])
    assert expanded.sample((5,)).shape == (5, 3, 2)
    z = expanded.sample()
    torch.testing.assert_close(expanded.log_prob(z), MultivariateNormal(loc, scale_tril=scale_tril).log_prob(z))


def test_low_rank_has_the_covariance_of_its_factor_and_starts_near_the_diagonal(h):
    guide = make(LOW_RANK)
    mu, log_sigma = guide.loc_log_scale(h).chunk(2, -1)
    W = guide.factor_gain * guide.factor(h)
    q = guide(h)
    torch.testing.assert_close(q.mean, mu)
    torch.testing.assert_close(q.covariance_matrix, W @ W.mT + torch.diag_embed((2 * log_sigma).exp()))
    start = LowRank(200, 3).double()(torch.randn(50, 200).double().tanh())
    assert start.cov_factor.abs().min() > 0  # at 0 it would stay there
    assert start.cov_factor.abs().max() < 0.2


def test_low_rank_keeps_its_digits_where_it_is_narrow():
    """log q in float32 against an independent way to the same density in double: ‖W‖/σ is 3,000 in the middle."""
    guide = LowRank(6, 4, rank=4)
    with torch.no_grad():
        guide.factor[0].bias.normal_()
        for log_sigma in (-2.0, -8.0, -12.0):
            guide.loc_log_scale.bias[4:] = log_sigma
            q = guide(torch.randn(50, 6))
            z = q.sample()
            assert z.dtype == q.mean.dtype == q.variance.dtype == q.entropy().dtype == torch.float32
            W, loc, diagonal = q.cov_factor, q.loc.double(), q.cov_diag
            covariance = W @ W.mT + torch.diag_embed(diagonal)
            exact = MultivariateNormal(loc, covariance).log_prob(z.double())
            assert (q.log_prob(z) - exact).abs().max() < 1e-4 * exact.abs().max()
            torch.testing.assert_close(q.variance, covariance.diagonal(dim1=-2, dim2=-1).float())
            assert q.expand([3, 50]).log_prob(z).shape == (3, 50)


def test_gradients_of_a_mixtures_expectations_are_the_exact_ones():
    """d/dθ E[Σ a_d z_d² + z_1 z_2 + z_2 z_3 + z_1 z_3] by draws, against the closed form's."""
    S, C, D = 40_000, 3, 3
    logits, loc = torch.randn(C).double(), torch.randn(C, D).double()
    log_scale, a = 0.5 * torch.randn(C, D).double() - 0.3, torch.randn(D).double()

    def mixture(logits, loc, log_scale):
        components = Normal(loc, log_scale.exp()).to_event(1)
        return guides.mixture.MixtureOfNormals(pyro.distributions.Categorical(logits=logits), components)

    def of_pairs(z):
        return z[..., 0] * z[..., 1] + z[..., 1] * z[..., 2] + z[..., 0] * z[..., 2]

    theta = [t.requires_grad_() for t in (logits, loc, log_scale)]
    second = loc.square() + (2 * log_scale).exp()
    exact = (logits.softmax(-1) * ((a * second).sum(-1) + of_pairs(loc))).sum()
    expected = torch.autograd.grad(exact, theta)
    each_draw = [t.detach().expand(S, *t.shape).clone().requires_grad_() for t in theta]
    z = mixture(*each_draw).rsample()
    for g, e in zip(torch.autograd.grad(((a * z**2).sum(-1) + of_pairs(z)).sum(), each_draw), expected, strict=True):
        assert ((g.mean(0) - e).abs() < 4.5 * g.std(0) / math.sqrt(S)).all()
        assert e.abs().max() > 10 * g.std(0).max() / math.sqrt(S)  # more than noise


def test_mixture_starts_with_components_apart(h):
    loc = Mixture(6, 3).double()(h).component_distribution.mean
    assert (loc.unsqueeze(-2) - loc.unsqueeze(-3)).norm(dim=-1)[:, ~torch.eye(3).bool()].min() > 0.1


def test_mixture_has_finite_gradients_in_single_precision_and_many_dimensions():
    guide = Mixture(6, 100)
    with torch.no_grad():
        guide.loc_log_scale[0].bias[100:200] = -4.0
    q = guide(torch.randn(7, 6))
    z = q.rsample((10,))
    (z.square().mean() + q.log_prob(z).mean()).backward()
    assert all(p.grad.isfinite().all() for p in guide.parameters())


@pytest.mark.parametrize("num_bins", [2, 3, 8])
def test_a_steep_spline_can_be_inverted_in_single_precision(num_bins):
    """Pyro's own inverse fails an assertion there."""
    guide = NeuralSpline(6, 3, num_bins=num_bins)
    with torch.no_grad():
        for p in guide.spline.parameters():
            p.copy_(10 * torch.randn_like(p))
    assert guide(torch.randn(100, 6)).log_prob(3 * torch.randn(100, 100, 3)).isfinite().all()


def test_order_of_the_dimensions_is_reversed_between_transforms():
    orders = [t.nn.permutation.tolist() for t in InverseAutoregressive(6, 3, num_transforms=3).transforms]
    assert orders == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (partial(LowRank, rank=0), "rank=0"),
        (partial(Mixture, num_components=1.5), "num_components=1.5"),
        (partial(InverseAutoregressive, num_transforms=0), "num_transforms=0"),
        (partial(InverseAutoregressive, hidden=[]), r"hidden=\[\] has no layer"),
        (partial(NeuralSpline, hidden=[8, 2]), r"hidden=\[8, 2\].*latent_dim=3"),
        (partial(NeuralSpline, num_bins=1), "num_bins=1 "),
        (partial(NeuralSpline, bound=0), "bound=0"),
        (partial(SemiAmortized, num_steps=0), "num_steps=0"),
        (partial(SemiAmortized, step_size=-1), "step_size=-1"),
        (partial(SemiAmortized, num_particles=3), "num_particles=3 must be even"),
    ],
)
def test_options_out_of_range_are_named(guide, message):
    with pytest.raises(BadInput, match=message):
        guide(6, 3)
