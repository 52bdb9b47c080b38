"""Plain HMC on Gaussians, whose moments are known, and R̂ of its chains."""

import math
from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.marginal.hmc import sample_posterior
from pyro_vae.marginal.rhat import split_rhat
from pyro_vae.programs.density import value_and_grad


def gaussian(condition, N=3, D=5):
    """N(μ, Σ) for each of N datapoints, with standard deviations between 1 and √condition along random axes."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(N, D, D, generator=generator).double())
    spread = torch.linspace(0, 0.5 * math.log(condition), D).double().exp()
    covariance = (axes * spread.square()) @ axes.mT
    loc = 10 * torch.randn(N, D, generator=generator).double()
    return dist.MultivariateNormal(loc, 0.5 * (covariance + covariance.mT))


@pytest.mark.parametrize("per_chain", [False, True])
def test_draws_have_the_moments_of_the_posterior(per_chain):
    torch.manual_seed(0)
    C, T, q = 8, 150, gaussian(1e6)
    scale_tril = q.scale_tril.expand(C, -1, -1, -1) if per_chain else q.scale_tril
    u, acceptance = sample_posterior(
        partial(value_and_grad, q.log_prob),
        q.loc + torch.zeros(C, 3, 5).double(),
        2 * scale_tril,
        60,
        T,
        num_leapfrog=4,
    )
    assert u.shape == (T, C, 3, 5)
    assert ((acceptance - 0.8).abs() < 0.1).all()
    v = torch.linalg.solve_triangular(q.scale_tril, (u - q.loc).unsqueeze(-1), upper=False).squeeze(-1)
    for power, truth in ((v, 0.0), (v.square(), 1.0)):  # standard errors from the chains, which are independent
        means = power.mean(0)
        z = (means.mean(0) - truth) / (means.std(0) / math.sqrt(C))
        assert z.abs().max() < 6  # of 15 t-values with 7 degrees of freedom: a chance of 1 %
    assert split_rhat(u).max() < 1.05


def test_rhat_tells_chains_in_separate_modes_and_of_different_scale():
    torch.manual_seed(0)
    draws = torch.randn(200, 4, 4, 3)
    draws[:, 0, 1, 2] += 3  # one chain of datapoint 1 elsewhere
    draws[:, 0, 2, 0] *= 5  # one chain of datapoint 2 wider
    draws[:100, :, 3, 1] += 1  # all chains of datapoint 3 drift
    rhat = split_rhat(draws)
    assert rhat[0] < 1.03
    assert (rhat[1:] > 1.1).all()
    draws[7, 2, 0, 0] = math.nan
    assert split_rhat(draws)[0] == math.inf


def test_chains_do_not_mix_between_separated_modes():
    def log_density(u):
        return torch.logaddexp(-0.5 * (u - 10).square(), -0.5 * (u + 10).square()).sum(-1)

    torch.manual_seed(0)
    start = torch.tensor([-10.0, 10.0]).reshape(2, 1, 1)
    u, _ = sample_posterior(partial(value_and_grad, log_density), start, torch.ones(1, 1, 1), 20, 100)
    assert split_rhat(u) > 1.5


def test_rhat_agrees_with_arviz():
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(100, 4, 1, 1, generator=generator).double().cumsum(0)
    expected = float(array_stats.rhat(draws[:, :, 0, 0].numpy(), chain_axis=1, draw_axis=0, method="rank"))
    assert split_rhat(draws).item() == pytest.approx(expected, rel=1e-6)
