from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Importance, Refined
from pyro_vae.marginal.laplace import find_mode, laplace, positive_definite, scale_tril_of
from pyro_vae.programs.density import Latents, hessian, value_and_grad


def model(x):
    """Two latents, one of them positive."""
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.5))
        pyro.sample("x", dist.Normal(a.sum(-1), s), obs=x)


def guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.6))
        pyro.sample("a", dist.Normal(x.new_zeros(2), 1.1).to_event(1))


X = torch.linspace(-2, 2, 5, dtype=torch.float64)


def test_sites_lie_side_by_side_in_unconstrained_space():
    latents = Latents.of(model, X)
    assert latents.dim == 3
    u = torch.randn(4, 5, 3, dtype=torch.float64)
    values, log_det = latents.unpack(u)
    torch.testing.assert_close(values["a"], u[..., :2])
    torch.testing.assert_close(values["s"], u[..., 2].exp())
    torch.testing.assert_close(log_det, u[..., 2])  # |ds / du| = s
    expected = (
        dist.Normal(0.0, 1.0).log_prob(u[..., :2]).sum(-1)
        + dist.Normal(0.0, 0.5).log_prob(u[..., 2])  # log s is normal
        + dist.Normal(u[..., :2].sum(-1), u[..., 2].exp()).log_prob(X)
    )
    torch.testing.assert_close(latents.log_density(model, X)(u), expected)
    draws = latents.draw(guide, X, num_samples=6)
    assert draws.shape == (6, 5, 3)


def test_refined_agrees_with_importance_on_constrained_sites():
    torch.manual_seed(1)
    importance, refined = (e(model, guide, X) for e in (Importance(100_000), Refined(20_000)))
    se = (importance.se**2 + refined.se**2).sqrt()
    assert ((importance.log_px - refined.log_px).abs() < 4.5 * se).all()


def test_discrete_latents_are_refused():
    def discrete(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(BadInput, match="site z is discrete"):
        Latents.of(discrete, X)


def test_derivatives_against_autograd(ppca):
    f = Latents.of(model, X).log_density(model, X)
    u = torch.randn(2, 5, 3, dtype=torch.float64)
    value, gradient = value_and_grad(f, u)
    torch.testing.assert_close(value, f(u))
    expected = torch.autograd.functional.jacobian(lambda u: f(u).sum(), u)
    torch.testing.assert_close(gradient, expected)
    H = hessian(f, u[0], chunk_size=2)
    for i in range(5):
        one = Latents.of(model, X[i : i + 1]).log_density(model, X[i : i + 1])
        expected = torch.autograd.functional.hessian(lambda v, one=one: one(v.reshape(1, 1, 3)).sum(), u[0, i])
        torch.testing.assert_close(H[i], expected)


def identity(N, D, scale=1.0):
    return scale * torch.eye(D, dtype=torch.float64).expand(N, D, D)


def test_modes_are_modes():
    f = Latents.of(model, X).log_density(model, X)
    start = 3 * torch.randn(5, 3, dtype=torch.float64)
    mode, gradient = find_mode(partial(value_and_grad, f), start, identity(5, 3), max_steps=200, tolerance=1e-12)
    torch.testing.assert_close(gradient, value_and_grad(f, mode.unsqueeze(0))[1].squeeze(0))
    assert gradient.abs().max() < 1e-4
    torch.linalg.cholesky(-hessian(f, mode))


@pytest.mark.parametrize("guess", [1e-8, 1.0, 1e8])
def test_laplace_of_a_quadratic_is_exact_whatever_the_guess(ppca, guess):
    x = ppca.evidence.sample((9,))
    f = Latents.of(ppca.vae.model, x).log_density(ppca.vae.model, x)
    loc, scale_tril = laplace(f, 5 * torch.randn(9, 2, dtype=torch.float64), torch.full((9, 2), guess).double())
    torch.testing.assert_close(loc, ppca.posterior(x).mean)
    torch.testing.assert_close(scale_tril, ppca.posterior(x).scale_tril)


def test_a_bad_start_does_not_lose_the_mode():
    """log p with a steep wall: full steps overshoot, damped ones arrive."""
    f = lambda u: -(u.exp() - u).sum(-1)  # noqa: E731  mode at 0
    start = torch.tensor([[-8.0], [6.0], [0.0]], dtype=torch.float64)
    mode, _ = find_mode(
        partial(value_and_grad, f), start, torch.diag_embed((-start).exp()), max_steps=200, tolerance=1e-10
    )
    assert mode.abs().max() < 1e-4


def test_positive_definite_leaves_good_matrices_and_mends_others():
    good, bad = torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -4.0]])
    mended = positive_definite(torch.stack([good, bad]).double())
    torch.testing.assert_close(mended[0], good.double())
    torch.testing.assert_close(mended[1], torch.diag(torch.tensor([1.0, 4.0])).double())


def test_scale_tril_is_the_cholesky_factor_of_the_inverse():
    A = torch.randn(3, 4, 4, dtype=torch.float64)
    precision = A @ A.mT + torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(scale_tril_of(precision), torch.linalg.cholesky(precision.inverse()))


def test_a_curvature_that_is_not_finite_ends_in_a_flag_not_in_an_error():
    """The rate exp(500 z) overflows where z is drawn from the prior."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson((500 * z).exp(), validate_args=False).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((len(x), 1), 3.0), 1.0).to_event(1))

    evidence = Refined(num_samples=50)(model, guide, torch.tensor([[1.0], [2.0]]))
    assert evidence.unreliable.all()
