"""Elementary functions in graphs agree with float64."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compilation import functions

EPS = torch.finfo(torch.float32).eps


def test_tanh_is_exact_to_rounding():
    x = torch.cat([torch.linspace(-12, 12, 400_001), torch.logspace(-44, 1, 100_001), -torch.logspace(-6, 0, 1000)])
    value, truth = functions.tanh(x).double(), x.double().tanh()
    assert (value.abs() <= 1).all()
    relative = ((value - truth) / truth)[truth.abs() > torch.finfo(torch.float32).tiny]
    assert relative.abs().max() < 4 * EPS


def test_tanh_of_special_values():
    x = torch.tensor([torch.inf, -torch.inf, 100.0, -100.0, 0.0, -0.0, torch.nan])
    torch.testing.assert_close(functions.tanh(x), x.tanh(), rtol=0, atol=0, equal_nan=True)
    assert functions.tanh(x)[5].signbit()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_only_float32_is_replaced(dtype):
    x = torch.linspace(-3, 3, 50, dtype=dtype)
    graph = make_fx(lambda x: [x.tanh() * 2])(x)
    functions.replace(graph)
    left = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default)
    assert bool(left) == (dtype != torch.float32)
    torch.testing.assert_close(graph(x)[0], x.tanh() * 2)
