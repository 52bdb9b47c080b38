"""A linear-Gaussian model and guide of one or two stochastic layers, as Pyro programs and in plain torch."""

import math
from copy import deepcopy

import pyro
import pyro.distributions as dist
import torch
from torch import nn


def log_normal(value, loc, log_scale):
    """log N(value; loc, exp(log_scale)²), summed over the last dimension."""
    u = (value - loc) / log_scale.exp()
    return (-0.5 * u**2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


class Tiny(nn.Module):
    """p: z2 ~ N(0, I), z1 ~ N(A z2, e^2a), x ~ N(B z1, e^2b); q: z1 ~ N(C x, e^2c), z2 ~ N(D z1, e^2d).

    `draws` keeps the latents of every run of the guide, from the bottom up, with their graph.
    """

    def __init__(self, layers, scale=0.6):
        super().__init__()
        random = lambda *shape: nn.Parameter(scale * torch.randn(*shape, dtype=torch.float64))  # noqa: E731
        self.p = nn.ParameterDict({"B": random(3, 2), "b": random(3)})
        self.q = nn.ParameterDict({"C": random(2, 3), "c": random(2)})
        if layers == 2:
            self.p.update({"A": random(2, 2), "a": random(2)})
            self.q.update({"D": random(2, 2), "d": random(2)})
        self.layers, self.draws = layers, []

    def model(self, x, y=None):
        pyro.module("p", self.p)
        with pyro.plate("data", len(x), dim=-1):
            zeros, ones = x.new_zeros(2), x.new_ones(2)
            if self.layers == 2:
                z2 = pyro.sample("z2", dist.Normal(zeros, ones).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(z2 @ self.p["A"].T, self.p["a"].exp()).to_event(1))
            else:
                z1 = pyro.sample("z1", dist.Normal(zeros, ones).to_event(1))
            x = pyro.sample("x", dist.Normal(z1 @ self.p["B"].T, self.p["b"].exp()).to_event(1), obs=x)
            self.dreamt = x, [z1] if self.layers == 1 else [z1, z2]

    def guide(self, x, y=None):
        pyro.module("q", self.q)
        with pyro.plate("data", len(x), dim=-1):
            z = [pyro.sample("z1", dist.Normal(x @ self.q["C"].T, self.q["c"].exp()).to_event(1))]
            if self.layers == 2:
                z.append(pyro.sample("z2", dist.Normal(z[0] @ self.q["D"].T, self.q["d"].exp()).to_event(1)))
        self.draws.append(z)

    def log_likelihood(self, x, z):
        return log_normal(x, z[0] @ self.p["B"].T, self.p["b"])

    def log_p(self, x, z):
        zero = x.new_zeros(2)
        prior = log_normal(z[-1], zero, zero)
        if self.layers == 2:
            prior = prior + log_normal(z[0], z[1] @ self.p["A"].T, self.p["a"])
        return prior + self.log_likelihood(x, z)

    def log_q(self, x, z, q=None):
        q = q or self.q
        log_q = log_normal(z[0], x @ q["C"].T, q["c"])
        return log_q + log_normal(z[1], z[0] @ q["D"].T, q["d"]) if self.layers == 2 else log_q

    def frozen_q(self):
        return deepcopy(self.q).requires_grad_(False)

    def gradient(self, loss, names="pq"):
        """Of a loss, for the parameters of p, q or both, as one vector."""
        params = [p for name in names for p in getattr(self, name).values()]
        gradients = torch.autograd.grad(loss, params, allow_unused=True, retain_graph=True)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for p, g in zip(params, gradients, strict=True)])  # fmt: skip

    def sample(self, objective, x):
        """A draw of the objective's gradient."""
        with pyro.validation_enabled(False):
            return self.gradient(objective.differentiable_loss(self.model, self.guide, x))


def detached(z):
    return [value.detach() for value in z]


def mean_and_se(draws):
    """Of draws `[R, P]`."""
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def agree(a, b):
    """Whether the means of two independent sets of draws do, within 4.5 standard errors."""
    (mean_a, se_a), (mean_b, se_b) = mean_and_se(a), mean_and_se(b)
    return ((mean_a - mean_b).abs() <= 4.5 * (se_a**2 + se_b**2).sqrt() + 1e-12).all()
