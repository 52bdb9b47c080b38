"""Mixtures as proposals, against moments, shares and autograd: a bad proposal would only cost efficiency."""

import math

import pyro.distributions as dist
import torch

from pyro_vae.marginal.ais import Start
from pyro_vae.marginal.fit_mixture import fit_mixture, reweight
from pyro_vae.marginal.mixture import Mixture


def test_fitting_finds_the_moments_of_draws():
    u = torch.randn(500, 3, 2).double() @ torch.tensor([[1.0, 0.5], [0.0, 0.3]]).double() + 1
    start = Mixture.single(torch.zeros(3, 2).double(), torch.eye(2).double().expand(3, 2, 2), math.inf)
    found = fit_mixture(start, u, num_iterations=5, shrinkage=0.0)
    torch.testing.assert_close(found.loc[0], u.mean(0), rtol=0, atol=1e-6)
    away = u - u.mean(0)
    covariance = torch.einsum("knd,kne->nde", away, away) / 500
    torch.testing.assert_close(found.scale_tril[0] @ found.scale_tril[0].mT, covariance, rtol=0.02, atol=1e-3)


def test_reweighting_finds_the_shares_of_modes():
    loc = torch.tensor([-9.0, 9.0]).double().reshape(2, 1, 1)
    half = torch.full((2, 1), 0.5).double().log()
    q = Mixture(half, loc, torch.ones(2, 1, 1, 1).double(), torch.tensor([math.inf]).double())
    u = q.sample(1000)
    log_w = torch.where(u[..., 0] > 0, math.log(4), 0.0).double()
    left = (u[..., 0] < 0).double().mean()
    share = left / (left + 4 * (1 - left))
    torch.testing.assert_close(reweight(q, u, log_w).log_weights.exp()[0, 0], (share + 0.01) / 1.02, rtol=1e-6, atol=0)


def test_a_mixed_start_has_the_density_and_gradient_of_a_mixture():
    def start(loc, scale):
        q = Mixture.single(torch.full((1, 2), loc).double(), scale * torch.eye(2).double().expand(1, 2, 2), math.inf)
        return Start.at(q, q.scale_tril[0]), dist.Normal(loc, scale)

    (one, p), (other, r) = start(0.0, 1.0), start(2.0, 0.5)
    u = torch.randn(50, 1, 2).double().requires_grad_()
    expected = torch.logaddexp(p.log_prob(u).sum(-1) + math.log(0.7), r.log_prob(u).sum(-1) + math.log(0.3))
    value, gradient = one.mixed(other, 0.3).evaluate(u.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), u)[0])
