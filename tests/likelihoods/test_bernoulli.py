"""The one-pass Bernoulli against torch's, term by term."""

import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.likelihoods.bernoulli import BernoulliLogProb, IndependentBernoulli


def test_graphs_have_a_logarithm_a_group():
    logits, x = torch.randn(2, 100), torch.ones(2, 100)
    graph = make_fx(BernoulliLogProb.apply)(logits, x)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.aten.prod.dim_int in called
    assert torch.ops.aten.softplus.default not in called


def by_torch(logits, x):
    return torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(-1)


# one group, several, one dimension a group (101 is prime), images, more than 50 in the smallest factor but one
@pytest.mark.parametrize("D", [1, 13, 50, 101, 106, 784])
def test_log_prob_and_gradients(D):
    logits = (4 * torch.randn(3, 2, D)).double().requires_grad_()
    x = torch.rand(2, D).double().requires_grad_()  # grey values too
    ours = IndependentBernoulli(dist.Bernoulli(logits=logits, validate_args=False), 1).log_prob(x)
    theirs = by_torch(logits, x)
    torch.testing.assert_close(ours, theirs)
    outer = torch.randn(3, 2).double()
    for ours_, theirs_ in zip(
        *(torch.autograd.grad((outer * f).sum(), [logits, x]) for f in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(ours_, theirs_)


def test_all_orders_of_derivatives():
    logits, x = torch.randn(2, 6).double().requires_grad_(), torch.rand(2, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(BernoulliLogProb.apply, (logits, x), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(BernoulliLogProb.apply, (logits, x))
    for hessian in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.grad(f))):
        H = hessian(lambda u: BernoulliLogProb.apply(u, x[0].detach()))(logits[0].detach())
        torch.testing.assert_close(H, torch.diag(-logits[0].sigmoid() * (1 - logits[0].sigmoid())).detach())


def test_single_precision_far_out():
    """Sums of 784: no worse than torch's by more than rounding, and finite at any finite logit."""
    x = (torch.rand(50, 784) < 0.3).float()
    for size in (1.0, 30.0, 1e4):
        logits = size * torch.randn(50, 784)
        exact = by_torch(logits.double(), x.double())
        error = (BernoulliLogProb.apply(logits, x) - exact).abs().max()
        assert error <= 2 * (by_torch(logits, x) - exact).abs().max() + 1e-6 * exact.abs().max()
    assert BernoulliLogProb.apply(torch.full((1, 784), 1e30), torch.ones(1, 784)).item() == 0


def test_it_is_an_independent_bernoulli():
    logits = torch.randn(4, 2, 3)
    p = IndependentBernoulli(dist.Bernoulli(logits=logits), 2)
    assert (p.batch_shape, p.event_shape) == ((4,), (2, 3))
    torch.testing.assert_close(p.mean, logits.sigmoid())
    wide = p.expand([5, 4])
    x = wide.sample()
    assert x.shape == (5, 4, 2, 3)
    torch.testing.assert_close(wide.log_prob(x), dist.Bernoulli(logits=logits).to_event(2).log_prob(x))
    torch.testing.assert_close(p.score_parts(x[0]).log_prob, p.log_prob(x[0]))
    alone = IndependentBernoulli(dist.Bernoulli(logits=logits), 0)
    torch.testing.assert_close(alone.log_prob(x), dist.Bernoulli(logits=logits).log_prob(x))
