"""The independent marginals of grey levels come near the truth, whatever it is and however little data there are."""

import numpy as np
import pytest
import torch

from pyro_vae.data.grid import Grid
from pyro_vae.likelihoods import Categorical, DiscretizedLogistic, levels
from pyro_vae.likelihoods.levels import level_marginals

L = 256


def rarely_set(D=100):
    """0, or with a probability of 0.001 to 0.5 any other level."""
    p = np.logspace(-3, -0.3, D)
    return np.concatenate([1 - p[None], np.repeat(p[None] / (L - 1), L - 1, 0)])


def bumps(D=100):
    """Each dimension has a bump of 20 levels somewhere."""
    k, centre = np.arange(L)[:, None], np.random.default_rng(9).uniform(20, 230, D)
    p = np.exp(-0.5 * ((k - centre) / 10) ** 2)
    return p / p.sum(0)


def few_levels(D=100):
    """Each dimension has five levels, with any probabilities."""
    rng = np.random.default_rng(9)
    p = np.zeros((L, D))
    for d in range(D):
        p[rng.choice(L, 5, replace=False), d] = rng.dirichlet(np.ones(5))
    return p


def draw(p, N, seed):
    u = np.random.default_rng(seed).random((N, 1, p.shape[1]))
    k = (u > p.cumsum(0)).sum(1).clip(0, L - 1)
    return torch.from_numpy(k / (L - 1)), np.log(np.take_along_axis(p, k, 0)).sum(1)


@pytest.mark.parametrize(
    ("truth", "N", "loss"),
    [(rarely_set, 1000, 1.0), (rarely_set, 100, 3.0), (bumps, 1000, 2.0), (bumps, 50, 7.0), (few_levels, 1000, 0.5)],
)
def test_new_data_are_nearly_as_likely_as_under_the_truth(truth, N, loss):
    """To 0.06 nats. Frequencies with one more datapoint, spread over the levels, lose 15, 21, 6, 145 and 0.3 nats."""
    p = truth()
    x, _ = draw(p, N, seed=0)
    new, log_px = draw(p, 2000, seed=1)
    difference = log_px - level_marginals(x, Grid(L)).log_prob(new).numpy()
    assert difference.mean() < loss


def test_they_are_probabilities():
    x, _ = draw(few_levels(D=6), 30, seed=0)
    p = level_marginals(x.reshape(-1, 2, 3), Grid(L))
    assert p.batch_shape == ()
    assert p.event_shape == torch.Size([2, 3])
    each = p.base_dist.log_prob((torch.arange(L).double() / (L - 1)).reshape(-1, 1, 1))
    torch.testing.assert_close(each.exp().sum(0), torch.ones(2, 3).double())


def test_a_piece_at_a_time_gives_the_same(monkeypatch):
    x, _ = draw(bumps(D=10), 50, seed=0)
    whole = level_marginals(x, Grid(L)).log_prob(x)
    monkeypatch.setattr(levels, "PART", 3 * L)
    torch.testing.assert_close(level_marginals(x, Grid(L)).log_prob(x), whole)


@pytest.mark.parametrize("truth", [rarely_set, bumps, few_levels])
def test_the_weights_are_fitted_to_the_end(truth, monkeypatch):
    x, _ = draw(truth(), 500, seed=0)
    new, _ = draw(truth(), 500, seed=1)
    log_px = level_marginals(x, Grid(L)).log_prob(new).mean()
    monkeypatch.setattr(levels, "NUM_STEPS", 1000)
    assert abs(log_px - level_marginals(x, Grid(L)).log_prob(new).mean()) < 0.1


def test_all_likelihoods_of_levels_have_the_same():
    x, _ = draw(bumps(D=5), 50, seed=0)
    expected = level_marginals(x, Grid(L)).log_prob(x)
    for likelihood in (Categorical([5]), DiscretizedLogistic([5]), DiscretizedLogistic([5], num_components=5)):
        torch.testing.assert_close(likelihood.marginals(x).log_prob(x), expected)
