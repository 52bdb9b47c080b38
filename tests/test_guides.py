import math

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal
from scipy import stats
from torch.distributions import kl_divergence

from pyro_vae.guides import CholeskyNormal, Diagonal, FullCovariance
from pyro_vae.priors import StandardNormal

GUIDES = [Diagonal, FullCovariance]


@pytest.fixture
def h():
    return torch.randn(4, 6, dtype=torch.float64)


def make(guide, latent_dim=3):
    """A guide in general position: FullCovariance's off-diagonal starts at zero."""
    q = guide(6, latent_dim).double()
    with torch.no_grad():
        for p in q.parameters():
            p.copy_(0.4 * torch.randn_like(p))
    return q


def moments(q):
    """Mean [N, D] and covariance [N, D, D]."""
    if isinstance(q, MultivariateNormal):
        return q.mean.detach().numpy(), q.covariance_matrix.detach().numpy()
    return q.mean.detach().numpy(), torch.diag_embed(q.variance).detach().numpy()


@pytest.mark.parametrize("guide", GUIDES)
def test_log_prob_of_own_draws_and_of_other_values_match_scipy(guide, h):
    q = make(guide)(h)
    mean, covariance = moments(q)
    own, other = q.rsample(), torch.randn(4, 3, dtype=torch.float64)
    for z in (own, other, own.clone()):
        expected = [
            stats.multivariate_normal(m, c).logpdf(v) for m, c, v in zip(mean, covariance, z.detach(), strict=True)
        ]
        torch.testing.assert_close(q.log_prob(z).detach(), torch.tensor(np.array(expected)))


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


def test_full_covariance_starts_as_the_diagonal_guide(h):
    full, diagonal = FullCovariance(6, 3).double(), Diagonal(6, 3).double()
    diagonal.load_state_dict(full.state_dict(), strict=False)
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(full(h).log_prob(z), diagonal(h).log_prob(z))
    assert (full(h).scale_tril.tril(-1) == 0).all()


@pytest.mark.parametrize("guide", GUIDES)
def test_gradients_of_a_draws_density_against_finite_differences(guide, h):
    """The cached noise must not hide the dependence of log q(z) on the parameters."""
    q = make(guide)
    z0 = torch.randn(4, 3, dtype=torch.float64)

    def f(features):
        torch.manual_seed(3)
        distribution = q(features)
        z = distribution.rsample()
        return distribution.log_prob(z), distribution.log_prob(z.clone()), (z * z0).sum(-1), distribution.log_prob(z0)

    assert torch.autograd.gradcheck(f, (h.clone().requires_grad_(),))


def test_density_of_a_detached_or_changed_draw_is_not_that_of_its_noise():
    """log q(z) of a constant z moves with the parameters as MultivariateNormal's does."""
    loc = torch.randn(3, dtype=torch.float64, requires_grad=True)
    L = (torch.eye(3, dtype=torch.float64) + 0.3 * torch.ones(3, 3).tril(-1)).requires_grad_()
    ours, theirs = CholeskyNormal(loc, scale_tril=L), MultivariateNormal(loc, scale_tril=L)
    z = ours.sample()
    gradients = [torch.autograd.grad(q.log_prob(z), (loc, L)) for q in (ours, theirs)]
    torch.testing.assert_close(gradients[0], tuple(g.tril() if g.dim() == 2 else g for g in gradients[1]))
    with torch.no_grad():
        z = ours.rsample()
        z += 1
        torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))


@pytest.mark.parametrize("guide", GUIDES)
def test_density_integrates_to_one(guide):
    q = make(guide, latent_dim=2)(torch.randn(1, 6, dtype=torch.float64))
    mean, covariance = moments(q)
    C = torch.tensor(np.linalg.cholesky(covariance[0]))
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    u = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():  # ∫ q(z) dz over z = mean + C u
        mass = q.log_prob(torch.tensor(mean) + u @ C.T).exp().sum() * C.det() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("guide", GUIDES)
def test_analytic_kl_equals_monte_carlo(guide, h):
    q, p = make(guide)(h), StandardNormal(3).double()(None).expand([4])
    with torch.no_grad():
        z = q.sample((100_000,))
        difference = q.log_prob(z) - p.log_prob(z)
    se = difference.std(0) / math.sqrt(len(z))
    assert ((difference.mean(0) - kl_divergence(q, p)).abs() < 4.5 * se).all()


def test_kl_of_full_covariance_to_any_factorized_normal(h):
    q = make(FullCovariance)(h)
    loc, scale = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3).double() + 0.5
    expected = kl_divergence(
        torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril),
        torch.distributions.MultivariateNormal(loc, torch.diag_embed(scale**2)),
    )
    torch.testing.assert_close(kl_divergence(q, Normal(loc, scale).to_event(1)), expected)


def test_cholesky_normal_keeps_to_the_interface_of_multivariate_normal():
    loc, scale_tril = torch.zeros(2).double(), torch.tensor([[1.0, 0.0], [2.0, 0.5]]).double()
    q = CholeskyNormal(loc, scale_tril=scale_tril)
    expanded = q.expand([3])
    assert expanded.sample((5,)).shape == (5, 3, 2)
    z = expanded.sample()
    torch.testing.assert_close(expanded.log_prob(z), MultivariateNormal(loc, scale_tril=scale_tril).log_prob(z))
