"""Objectives that take latents which are not reparameterized, against sums over all values of z."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny import mean_and_se
from torch import nn

from pyro_vae.objectives import ReweightedWakeSleep, ScoreFunction, Trace_ELBO, VariationalEM


class Mixture(nn.Module):
    """z ~ Categorical over three corners, x | z ~ N(B z, I); q(z | x) amortized, linear in x."""

    def __init__(self):
        super().__init__()
        self.p = nn.ParameterDict({"logits": torch.randn(3).double(), "B": torch.randn(3, 3).double()})
        self.q = nn.ParameterDict({"C": torch.randn(3, 3).double()})

    def model(self, x, y=None):
        pyro.module("p", self.p)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(logits=self.p["logits"]))
            pyro.sample("x", dist.Normal(z @ self.p["B"].T, x.new_ones(3)).to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("q", self.q)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.OneHotCategorical(logits=x @ self.q["C"].T))

    def tables(self, x):
        """log p(x_n, z = e_j) and log q(z = e_j | x_n), both `[N, 3]`."""
        log_px = -0.5 * (x[:, None] - self.p["B"].T).square().sum(-1) - 1.5 * torch.tensor(2 * torch.pi).log()
        return log_px + self.p["logits"].log_softmax(0), (x @ self.q["C"].T).log_softmax(-1)

    def gradient(self, loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.parameters()))])


@pytest.fixture
def mixture():
    return Mixture()


@pytest.mark.parametrize("objective", [ScoreFunction(1), ScoreFunction(5), Trace_ELBO(5)], ids=["1", "5", "elbo"])
def test_elbo_gradients_are_unbiased(objective, mixture):
    x = torch.randn(2, 3).double()
    log_p, log_q = mixture.tables(x)
    exact = mixture.gradient(-(log_q.exp() * (log_p - log_q)).sum())
    many = x.repeat(100, 1)
    draws = [mixture.gradient(objective.differentiable_loss(mixture.model, mixture.guide, many)) for _ in range(60)]
    mean, se = mean_and_se(torch.stack(draws) / 100)
    assert ((mean - exact).abs() < 4.5 * se).all()


def test_score_function_of_one_particle_is_pyros(mixture):
    """Pyro's trace_elbo takes it by itself, of draws that are not reparameterized."""
    x, gradients = torch.randn(4, 3).double(), []
    for objective in (ScoreFunction(1), pyro.infer.Trace_ELBO()):
        torch.manual_seed(1)
        gradients.append(mixture.gradient(objective.differentiable_loss(mixture.model, mixture.guide, x)))
    torch.testing.assert_close(*gradients)


def test_wake_gradients_are_those_of_the_likelihood_and_the_posterior_for_many_particles(mixture):
    """θ: ∇ log p(x); φ: −∇ KL(p(z | x) ‖ q(z | x)): the bias, of order 1/K, is below the noise here."""
    x = torch.randn(3, 3).double()
    log_p, log_q = mixture.tables(x)
    posterior = log_p.detach().softmax(-1)
    exact = mixture.gradient(-log_p.logsumexp(-1).sum() - (posterior * log_q).sum())
    objective = ReweightedWakeSleep(num_particles=3000)
    draws = [mixture.gradient(objective.differentiable_loss(mixture.model, mixture.guide, x)) for _ in range(50)]
    mean, se = mean_and_se(torch.stack(draws))
    assert ((mean - exact).abs() < 4.5 * se).all()


def test_variational_em_takes_the_exact_posterior(mixture):
    """θ then gets the likelihood's gradient, on average: EM with one draw of z."""
    x = torch.randn(2, 3).double()

    def posterior(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.OneHotCategorical(logits=mixture.tables(x)[0]))

    objective = VariationalEM(e_steps=1, m_steps=1)
    assert "score function" in objective.check(mixture.model, posterior, x)
    loss = objective.differentiable_loss(mixture.model, posterior, x)
    log_p = mixture.tables(x)[0]
    assert not loss.requires_grad  # the guide has no parameter
    assert objective.loss_and_grads(mixture.model, posterior, x) == pytest.approx(loss.item())
    assert loss.item() == pytest.approx(-log_p.logsumexp(-1).sum().item())
    objective.at_step(1, 0.0)
    theta, many, draws = list(mixture.p.values()), x.repeat(100, 1), []
    for _ in range(60):
        g = torch.autograd.grad(objective.differentiable_loss(mixture.model, posterior, many), theta)
        draws.append(torch.cat([part.flatten() for part in g]) / 100)
    exact = torch.autograd.grad(-log_p.logsumexp(-1).sum(), theta)
    mean, se = mean_and_se(torch.stack(draws))
    assert ((mean - torch.cat([part.flatten() for part in exact])).abs() < 4.5 * se).all()
