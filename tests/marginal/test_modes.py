"""The modes of a posterior, and the Student-t fitted to each."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.marginal.incremental import incremental
from pyro_vae.marginal.judge import judge
from pyro_vae.marginal.modes import find_modes, polish
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import Proposal


def test_polishing_helps_in_many_dimensions():
    """Gradient steps as long as in 20 dimensions would only add noise to a covariance of 50: a third of the samples."""
    torch.manual_seed(0)
    W = 0.5 * torch.randn(50, 100)

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(50), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ W).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 50), 1).to_event(1))

    x = torch.bernoulli(torch.sigmoid(torch.randn(3, 50) @ W))
    p = Posteriors.of(model, guide, x, None, False, "auto")
    found = find_modes(p, num_starts=4, max_modes=2, max_steps=25)

    def ess(q):
        return judge(Proposal(q, 0.0, found.gain, found.num_found > 2).draw(p, 10_000)[1]).ess

    laplace, polished = ess(found.q), ess(polish(p, found.q))
    assert (polished > 3 * laplace).all(), (laplace, polished)


@pytest.mark.parametrize("D", [2, 20, 30])
def test_polishing_keeps_an_exact_proposal(D):
    """The posterior is Gaussian. Adam's full steps along rounding errors would take some of the samples."""
    torch.manual_seed(0)
    W = torch.randn(D, 2 * D) / D**0.5

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1).to_event(1))
            pyro.sample("x", dist.Normal(z @ W, 1).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1).to_event(1))

    p = Posteriors.of(model, guide, torch.randn(8, D) @ W + torch.randn(8, 2 * D), None, False, "auto")
    found = find_modes(p, num_starts=2, max_modes=1, max_steps=25)
    gaussian = replace(polish(p, found.q), df=torch.full_like(found.q.df, math.inf))
    with torch.no_grad():
        _, log_w = Proposal(gaussian, 0.0, found.gain, found.num_found > 2).draw(p, 500)
    assert log_w.std(0).max() < 0.05


def test_components_where_weights_are_large_follow_a_curved_ridge():
    """x ~ N(z₂ − z₁², 0.05), with ten latents that have no data: both legs of a parabola, far longer than the modes."""

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(12), 1).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 1:2] - z[..., :1] ** 2, 0.05).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 12), 1).to_event(1))

    x = torch.tensor([[-1.5], [-0.5], [0.5]])
    t = torch.linspace(-8, 8, 8001).double()
    normal = torch.distributions.Normal
    truth = (normal(0.0, 1.0).log_prob(t) + normal(-t.square(), math.hypot(1, 0.05)).log_prob(x.double())).logsumexp(1)
    torch.manual_seed(0)
    p = Posteriors.of(model, guide, x, None, False, "auto")
    found = find_modes(p, num_starts=8, max_modes=4, max_steps=25)
    proposal = Proposal(polish(p, found.q), 0.1, found.gain, found.num_found > 4)
    before, after = (judge(q.draw(p, 5000)[1]) for q in (proposal, incremental(p, proposal)))
    assert after.ess.min() > 500, (before.ess, after.ess)
    assert after.ess.min() > 2 * before.ess.min(), (before.ess, after.ess)
    assert ((after.log_px - truth - math.log(t[1] - t[0])).abs() < 4 * after.se + 0.02).all()


def test_a_guide_that_is_far_too_narrow_does_not_narrow_the_proposal():
    """Searches that end some tenths of a nat below a mode kept the guide's scale: one of 1,000 draws had all weight."""
    torch.manual_seed(0)
    W, wrong = torch.randn(20, 60) * torch.logspace(0, -1, 20).unsqueeze(1), 2 * torch.randn(20)

    def mean(z):
        return z @ W + (z @ W).tanh()

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), 1).to_event(1))
            pyro.sample("x", dist.Normal(mean(z), 0.1).to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(wrong.expand(len(x), 20), 1e-4).to_event(1))

    x = mean(torch.randn(3, 20)) + 0.1 * torch.randn(3, 60)
    p = Posteriors.of(model, guide, x, None, False, "auto")
    found = find_modes(p, num_starts=4, max_modes=2, max_steps=25)
    log_w = Proposal(polish(p, found.q), 0.0, found.gain, found.num_found > 2).draw(p, 1000)[1]
    assert (judge(log_w).ess > 100).all(), judge(log_w).ess
