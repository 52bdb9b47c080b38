"""Weights too small to matter have no gradient."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vae.objectives import IWAE, Renyi
from pyro_vae.objectives.negligible import without_negligible


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [IWAE(1000), Renyi(0.5, 1000), Renyi(2.0, 1000)])
def test_no_gradient_is_subnormal(bound, dtype):
    log_w = torch.linspace(-3000.0, 0.0, 1000, dtype=dtype).unsqueeze(1).requires_grad_()
    bound.of_weights(log_w).sum().backward()
    gradient = log_w.grad[log_w.grad != 0].abs()
    assert 5 < len(gradient) < 1000
    assert gradient.min() > torch.finfo(dtype).eps ** 3
    # the whole sum, by torch
    power = (1 - bound.alpha) * log_w.detach()
    expected = (power.logsumexp(0) - math.log(1000)) / (1 - bound.alpha)
    torch.testing.assert_close(bound.of_weights(log_w).detach(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    weights = log_w.grad.sum()  # exponents up to 3000 are rounded
    torch.testing.assert_close(weights, torch.ones((), dtype=dtype), rtol=3000 * torch.finfo(dtype).eps, atol=0)


def test_largest_weights_are_kept():
    generator = torch.Generator().manual_seed(0)
    log_w = torch.randn(50, 8, generator=generator)  # of similar size: nothing is negligible
    assert torch.equal(without_negligible(log_w), log_w)


def test_weights_that_are_zero_or_not_a_number():
    log_w = torch.tensor([[0.0, -math.inf, math.nan], [-math.inf, -math.inf, 0.0]], requires_grad=True)
    values = without_negligible(log_w).logsumexp(0)
    assert values[:2].tolist() == [0, -math.inf]
    assert values[2].isnan()
    values[0].backward()
    assert log_w.grad[:, 0].tolist() == [1, 0]
