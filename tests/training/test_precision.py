"""Products in bfloat16, against the same products in double precision of what has been rounded by hand."""

import pytest
import torch
from conftest import graphs_of
from torch import nn

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import with_gradients
from pyro_vae.training.precision import PRODUCTS, BFloat16Products, is_fast


def rounded(value):
    """To 8 bits of mantissa, in double precision: products of such numbers and short sums of them are exact."""
    return value.bfloat16().double()


def close(actual, expected, sums=1):
    """Rounded to bfloat16 once, or in each of some partial sums."""
    expected = rounded(expected)
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual.double(), expected, rtol=2**-7, atol=(sums - 1) * 2**-8 * largest)
    if sums == 1:  # but where double precision is next to the middle of two numbers: either is right
        assert (actual.double() == expected).double().mean() > 0.98


def exact(actual, expected):
    """All of float32 is there."""
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-6, atol=1e-7)


@pytest.fixture
def layer():
    return nn.Linear(5, 3), torch.randn(40, 5, requires_grad=True), torch.randn(40, 3)


def as_it_is(fn):
    return fn


def traced(fn):
    """The third call of what is compiled."""
    fast = Compiled(lambda: fn(), "aot_eager")
    fast()
    fast()

    def run():
        result = fast()
        assert graphs_of(fast) == 1
        return result

    return run


@pytest.mark.parametrize("wrap", [as_it_is, traced])
def test_linear_layer_forward_and_backward(layer, wrap):
    linear, x, weight = layer

    def loss():
        y = linear(x)
        return (y * weight).sum(), y.detach()

    (_, y), parameters, gradients = wrap(with_gradients(loss, BFloat16Products))()
    found = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
    close(y, rounded(x) @ rounded(linear.weight).T + rounded(linear.bias))
    close(found[id(x)], rounded(weight) @ rounded(linear.weight))
    close(found[id(linear.weight)], rounded(weight).T @ rounded(x))
    exact(found[id(linear.bias)], weight.sum(0))  # no product


@pytest.mark.parametrize("wrap", [as_it_is, traced])
def test_what_lies_between_products_is_float32(layer, wrap):
    linear, x, weight = layer
    last = nn.Linear(3, 2, bias=False)

    def loss():
        y = linear(x)
        hidden = y.tanh()
        z = last(hidden)
        return (z.exp() * weight[:, :2]).sum(), y.detach(), hidden.detach(), z.detach()

    (value, y, hidden, z), parameters, gradients = wrap(with_gradients(loss, BFloat16Products))()
    found = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
    exact(hidden, y.tanh())
    assert not torch.equal(hidden, hidden.bfloat16().float())
    close(z, rounded(hidden) @ rounded(last.weight).T)
    exact(value, (z.double().exp() * weight[:, :2]).sum())
    outer = z.exp() * weight[:, :2]
    close(found[id(last.weight)], rounded(outer).T @ rounded(hidden))
    inner = rounded(rounded(outer) @ rounded(last.weight)) * (1 - hidden.double() ** 2)
    # `inner` is float32 here, double there: what rounds otherwise is rare, but enters sums
    close(found[id(linear.weight)], rounded(inner).T @ rounded(x), sums=3)
    exact(found[id(linear.bias)], inner.sum(0))


PRODUCT = {
    "mm": (lambda a, b: a @ b, (4, 5), (5, 3)),
    "bmm": (lambda a, b: a @ b, (2, 4, 5), (2, 5, 3)),
    "rows": (lambda a, b: a @ b, (2, 4, 5), (5, 3)),
    "einsum": (lambda a, b: torch.einsum("kni,nij->knj", a, b), (2, 4, 5), (4, 5, 3)),
    "conv2d": (lambda a, b: nn.functional.conv2d(a, b, stride=2, padding=1), (2, 3, 6, 6), (4, 3, 3, 3)),
    "conv_transpose2d": (lambda a, b: nn.functional.conv_transpose2d(a, b, stride=2), (2, 3, 4, 4), (3, 4, 3, 3)),
    "baddbmm": (lambda a, b: torch.baddbmm(a[..., :3], a, b), (2, 5, 5), (2, 5, 3)),
}


@pytest.mark.parametrize("name", PRODUCT)
def test_products(name):
    """Their gradients are products of the same kinds, of the outer gradient and of one input each.

    Convolutions that add up overlapping patches do so in bfloat16 on a CPU.
    """
    product, *shapes = PRODUCT[name]
    sums = 4 if "conv" in name else 1
    a, b = (torch.randn(shape, requires_grad=True) for shape in shapes)
    with BFloat16Products():
        y = product(a, b)
        outer = torch.randn_like(y)
        gradients = torch.autograd.grad(y, [a, b], outer)
    assert all(g.dtype == torch.float32 for g in gradients)
    wide = [rounded(value.detach()).requires_grad_() for value in (a, b)]
    expected = product(*wide)
    close(y, expected, sums)
    if name == "baddbmm":  # whose first summand is no product: its gradient stays as it is
        return
    for actual, other in zip(gradients, torch.autograd.grad(expected, wide, rounded(outer)), strict=True):
        close(actual, other, sums)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16])
def test_other_types_are_left_alone(dtype):
    a, b = (torch.randn(4, 4).mul(10).to(dtype) for _ in range(2))
    with BFloat16Products():
        y = a @ b
    assert y.dtype == dtype
    assert torch.equal(y, a @ b)


def test_double_precision_gradients_are_left_alone():
    linear, x = nn.Linear(5, 3).double(), torch.randn(4, 5).double()
    loss = lambda: linear(x).square().sum()  # noqa: E731
    results = [with_gradients(loss)(), with_gradients(loss, BFloat16Products)()]
    assert all(torch.equal(*pair) for pair in zip(results[0][2], results[1][2], strict=True))
    assert torch.equal(results[0][0][0], results[1][0][0])


def test_everything_else_is_float32():
    x = torch.randn(4, 5)
    fns = (torch.exp, torch.softmax, torch.logsumexp, torch.cumsum, torch.sum)
    for fn in fns:
        args = (x,) if fn is torch.exp else (x, -1)
        with BFloat16Products():
            y = fn(*args)
        assert y.dtype == torch.float32
        assert torch.equal(y, fn(*args))
    assert all(any(name in str(op) for name in ("mm", "conv", "linear", "matmul")) for op in PRODUCTS)


def test_inference_mode(layer):
    linear, x, _ = layer
    with torch.inference_mode(), BFloat16Products():
        y = linear(x)
    close(y, rounded(x) @ rounded(linear.weight).T + rounded(linear.bias))


def test_only_within_its_context(layer):
    linear, x, _ = layer
    with BFloat16Products():
        inside = linear(x)
    assert not torch.equal(linear(x), inside)
    assert torch.equal(linear(x), linear(x.detach()))


def test_the_cpu_is_asked():
    assert is_fast(torch.device("cpu")) is torch.ops.mkldnn._is_mkldnn_bf16_supported()
