import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.errors import BadInput
from pyro_vae.likelihoods import Bernoulli, Gaussian


def test_bernoulli_log_prob_matches_scipy():
    likelihood, x = Bernoulli([2, 3]), torch.rand(4, 2, 3).double().round()
    h = torch.randn(4, *likelihood.param_shape).double()
    p = 1 / (1 + np.exp(-h[:, 0].numpy()))
    expected = stats.bernoulli(p).logpmf(x.numpy()).sum((1, 2))
    assert likelihood(h).event_shape == (2, 3)
    np.testing.assert_allclose(likelihood(h).log_prob(x).numpy(), expected)


@pytest.mark.parametrize("scale", ["fixed", "learned", "per_pixel"])
def test_gaussian_log_prob_matches_scipy(scale):
    likelihood = Gaussian([2, 3], scale=scale, init_scale=0.3, min_scale=0.02).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    h = torch.randn(4, *likelihood.param_shape).double()
    sigma = 0.3
    if scale == "per_pixel":  # softplus in plain numpy, offset so that h = 0 gives init_scale
        sigma = 0.02 + np.log1p(np.exp(h[:, 1].numpy() + np.log(np.expm1(0.3 - 0.02))))
    expected = stats.norm(h[:, 0].numpy(), sigma).logpdf(x.numpy()).sum((1, 2))
    np.testing.assert_allclose(likelihood(h).log_prob(x).detach().numpy(), expected, rtol=1e-6)


def test_learned_scale_finds_the_maximum_likelihood_one():
    likelihood, x = Gaussian([1], init_scale=1.0), 0.2 * torch.randn(1000, 1)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(torch.zeros(1000, 1, 1)).log_prob(x).mean()).backward()
        optimizer.step()
    assert likelihood(torch.zeros(1, 1, 1)).stddev.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-3)


def test_bernoulli_says_when_log_px_is_no_likelihood():
    likelihood = Bernoulli([3])
    assert likelihood.check(torch.tensor([[0.0, 1, 1]])) is None
    assert "not a likelihood" in likelihood.check(torch.tensor([[0.0, 0.5, 1]]))
    with pytest.raises(BadInput, match=r"needs values in \[0, 1\], the data span \[0, 3\]"):
        likelihood.check(torch.tensor([[0.0, 3, 1]]))


def test_gaussian_says_when_data_are_discrete():
    assert "density" in Gaussian([3]).check(torch.tensor([[0.0, 1, 1]]))
    assert Gaussian([3]).check(torch.tensor([[0.0, 0.4, 1]])) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "free"}, "likelihood.scale=free.*fixed, learned, per_pixel"),
        ({"init_scale": 0}, "likelihood.init_scale=0"),
        ({"init_scale": float("nan")}, "likelihood.init_scale=nan"),
        ({"min_scale": -1}, "likelihood.min_scale=-1"),
        ({"init_scale": 0.01, "min_scale": 0.1}, "must exceed"),
    ],
)
def test_gaussian_refuses_bad_settings(settings, message):
    with pytest.raises(BadInput, match=message):
        Gaussian([3], **settings)
