import math

import numpy as np
import pytest
import torch

from pyro_vae.marginal.pareto import MIN_SAMPLES, pareto_k, tail_length, threshold


def k_of(log_w):
    """k̂ from all log-weights `[K, n]`."""
    K = len(log_w)
    return pareto_k(log_w.topk(tail_length(K) + 1, dim=0).values, K)


@pytest.mark.parametrize("K", [100, 1000, 5000])
def test_agrees_with_arviz(K):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    if not hasattr(array_stats, "psislw"):
        pytest.skip("this arviz-stats, the last for Python 3.10, has no psislw")
    shapes = torch.tensor([0.05, 0.3, 0.7, 1.2])
    log_w = -torch.rand(K, 4).double().log() * shapes + 0.1 * torch.randn(K, 4).double()
    expected = [float(array_stats.psislw(-column)[1]) for column in log_w.T.numpy()]  # psislw negates
    np.testing.assert_allclose(k_of(log_w).numpy(), expected, atol=0.015)


def test_recovers_the_shape_of_pareto_weights():
    """w = u^(−k) is Pareto with shape k; sd of k̂ is about (1 + k)/√M, shrunk to 0.5 by 10 pseudo-observations."""
    K, n, k = 10_000, 50, torch.tensor([0.2, 0.5, 0.8])
    M = tail_length(K)
    for shape in k:
        estimates = k_of(-torch.rand(K, n).double().log() * shape)
        expected = (M * shape + 5) / (M + 10)
        se = (1 + shape) / math.sqrt(M) / math.sqrt(n)
        assert abs(estimates.mean() - expected) < 4.5 * se


def test_the_threshold_is_that_of_vehtari_et_al():
    """Their rule of thumb: k̂ < 0.7 needs more than 2,000 weights, k̂ < 0.5 a hundred."""
    assert threshold(100) == pytest.approx(0.5)
    assert threshold(500) == pytest.approx(0.6295, abs=1e-4)
    assert threshold(2000) == pytest.approx(0.6971, abs=1e-4)
    assert threshold(2200) == threshold(10**6) == 0.7
    assert math.isnan(threshold(MIN_SAMPLES - 1))


@pytest.mark.parametrize("K", [32, 50, 100, 200])
def test_few_good_weights_are_rarely_flagged_and_bad_ones_more_often(K):
    """Good: log-normal, with a standard error below 0.1 nats. Bad: Pareto with k = 1, whose mean is infinite."""
    generator = torch.Generator().manual_seed(0)
    good = 0.5 * torch.randn(K, 2000, generator=generator).double()
    bad = -torch.rand(K, 2000, generator=generator).double().log()
    false_flags, hits = ((k_of(log_w) > threshold(K)).double().mean().item() for log_w in (good, bad))
    assert false_flags < 0.07
    assert hits > 0.3


def test_the_fewest_samples_have_a_pareto_k():
    assert k_of(torch.randn(MIN_SAMPLES - 1, 2).double()).isnan().all()
    assert k_of(torch.randn(MIN_SAMPLES, 2).double()).isfinite().all()


def test_is_invariant_to_the_scale_of_the_weights():
    log_w = torch.randn(1000, 3, dtype=torch.float64)
    torch.testing.assert_close(k_of(log_w), k_of(log_w - 700))


def test_too_few_samples_to_tell_and_equal_weights():
    assert k_of(torch.randn(20, 2, dtype=torch.float64)).isnan().all()
    assert (k_of(torch.zeros(1000, 2).double()) == -math.inf).all()
