"""How `auto` judges weights, by hand."""

import math

import torch

from pyro_vae.marginal.auto import with_quadrature
from pyro_vae.marginal.judge import judge


def test_a_lower_bound_is_that_of_the_smallest_of_20_batches():
    lower = judge(torch.zeros(1000, 2).double()).extra["log_px_lower"]
    torch.testing.assert_close(lower, torch.full((2,), -math.log(20) / 20).double())


def test_halves_that_disagree_make_an_estimate_unreliable():
    log_w = 0.1 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)).double()
    log_w[500:] += torch.tensor([0.0, 0.1, -0.1])
    assert judge(log_w).unreliable.tolist() == [False, True, True]


def test_an_integral_that_samples_contradict_does_not_replace_them():
    noise = 0.1 * torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)).double()
    found = judge(noise - noise.logsumexp(0) + math.log(1000))
    found = found.unless(torch.tensor([False, False, False, True, True]))
    integral = torch.tensor([0.001, 0.5, -0.5, 0.5, -0.5]).double()  # 0 is what samples say
    merged = with_quadrature(found, integral, torch.ones(5, dtype=torch.bool))
    assert merged.ess.isinf().tolist() == [True, False, False, True, False]
    torch.testing.assert_close(merged.log_px, torch.tensor([0.001, 0, 0, 0.5, 0]).double(), rtol=0, atol=1e-9)
