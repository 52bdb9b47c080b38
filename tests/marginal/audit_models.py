"""Models with known log p(x) on which estimators fail unnoticed: several modes, ridges, heavy tails, sharp likelihoods.

Each is a plain Pyro program with a guide that fits well and some that do not. `w` are latents that the data say nothing
about: they leave log p(x) as it is, but make the posterior too wide for quadrature.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions import (
    Categorical,
    Cauchy,
    Gamma,
    HalfCauchy,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Poisson,
    StudentT,
)


@dataclass(frozen=True)
class Audit:
    """A model with its guides.

    Attributes:
        model: called with x `[N, P]`.
        guides: by name.
        size: P.
        log_px: the true log p(x) `[N]`, float64.
    """

    model: Callable
    guides: dict[str, Callable]
    size: int
    log_px: Callable

    def simulate(self, num_data, seed=0):
        """Draw x `[N, P]` from the model, float64."""
        torch.manual_seed(seed)
        sites = poutine.trace(poutine.uncondition(self.model)).get_trace(torch.zeros(num_data, self.size).double())
        return sites.nodes["x"]["value"].double()


def program(body, nuisance):
    """Return a program of datapoints, whose `body(x)` samples latents; `nuisance` more follow no data."""

    def run(x, y=None):
        with pyro.plate("data", len(x)):
            if nuisance:
                zero = x.new_zeros(nuisance)
                pyro.sample("w", StudentT(zero + 50, zero, 1).to_event(1))  # not Gaussian: no closed form
            body(x)

    return run


def guides_of(posterior, nuisance, wrong=None):
    """Return guides: `fitted`, `shifted` by 5 sd, `narrow` by a factor of 10, and `wrong`, on the wrong mode, if given.

    `posterior(x)` and `wrong(x)` return (family, loc `[N, D]`, scale `[N, D]`) of each site.
    """

    def make(posterior, shift=0.0, width=1.0):
        def body(x, y=None):
            for site, (family, loc, scale) in posterior(x).items():
                pyro.sample(site, family(loc + shift * scale, width * scale).to_event(loc.dim() - 1))

        def run(x, y=None):
            with pyro.plate("data", len(x)):
                if nuisance:
                    pyro.sample("w", Normal(x.new_zeros(nuisance) + shift, width).to_event(1))
                body(x)

        return run

    guides = {"fitted": make(posterior), "shifted": make(posterior, 5.0), "narrow": make(posterior, 0.0, 0.1)}
    return guides if wrong is None else guides | {"wrong": make(wrong)}


def integrate(log_f, low, high, nodes=20001):
    """Return log ∫ exp(log_f(t)) dt by the trapezoidal rule; log_f maps `[K, 1]` to `[K, ...]`."""
    t = torch.linspace(low, high, nodes, dtype=torch.float64).unsqueeze(-1)
    return torch.logsumexp(log_f(t), 0) + math.log((high - low) / (nodes - 1))


def banana(sigma, nuisance=0, fold=True):
    """x = z₂ − z₁² + noise: a curved ridge, with two legs where x is negative."""

    def body(x):
        z = pyro.sample("z", Normal(x.new_zeros(2), 1).to_event(1))
        pyro.sample("x", Normal(z[..., 1:] - z[..., :1] ** 2, sigma).to_event(1), obs=x)

    def leg(sign):
        def posterior(x):
            # maximum of −½ (z₁² + (x + z₁²)²): z₁² = −x − ½
            z1 = sign * (-x - 0.5).clamp_min(0.04).sqrt()
            return {"z": (Normal, torch.cat([z1, x + z1.square()], -1), torch.full_like(x, 0.4).expand(-1, 2))}

        return posterior

    def log_px(x):
        def log_f(t):
            return Normal(0.0, 1.0).log_prob(t) + Normal(-t.square(), math.hypot(1, sigma)).log_prob(x.squeeze(-1))

        return integrate(log_f, -10, 10)

    return Audit(program(body, nuisance), guides_of(leg(1), nuisance, leg(-1)), 1, log_px)


def mixture(D=2, away=4.0, nuisance=0):
    """The prior has separated modes, and the data hardly tell which is right: the guide may sit on that of 5 %."""
    share, mean, spread, sigma = torch.tensor([0.95, 0.05]).double(), (away, -away), 0.5, 40.0

    def body(x):
        loc = x.new_tensor(mean).unsqueeze(-1).expand(2, D)
        z = pyro.sample("z", MixtureSameFamily(Categorical(share.to(x)), Normal(loc, spread).to_event(1)))
        pyro.sample("x", Normal(z, sigma).to_event(1), obs=x)

    def on(m):
        def posterior(x):
            scale = (spread**-2 + sigma**-2) ** -0.5
            return {"z": (Normal, scale**2 * (mean[m] / spread**2 + x / sigma**2), torch.full_like(x, scale))}

        return posterior

    def log_px(x):
        parts = [Normal(m, math.hypot(spread, sigma)).log_prob(x).sum(-1) for m in mean]
        return torch.logsumexp(torch.stack(parts) + share.log().unsqueeze(-1), 0)

    return Audit(program(body, nuisance), guides_of(on(0), nuisance, on(1)), D, log_px)


def poisson(prior, D=1, nuisance=0):
    """Counts with rates λ that have a gamma, lognormal or half-Cauchy prior."""
    priors = {"gamma": lambda o: Gamma(0.7 * o, 0.2 * o), "lognormal": lambda o: LogNormal(o, 1.5 * o)}
    make = (priors | {"half_cauchy": lambda o: HalfCauchy(2 * o)})[prior]

    def body(x):
        rate = pyro.sample("rate", make(x.new_ones(D)).to_event(1))
        pyro.sample("x", Poisson(rate).to_event(1), obs=x)

    def posterior(x):
        return {"rate": (LogNormal, (x + 0.4).log(), (x + 0.7).rsqrt())}

    def log_px(x):
        one = torch.ones((), dtype=torch.float64)
        counts, index = x.unique(return_inverse=True)

        def log_f(t):  # of t = log λ
            return make(one).log_prob(t.exp()) + Poisson(t.exp()).log_prob(counts) + t

        return integrate(log_f, -45, 25, 40001)[index].sum(-1)

    return Audit(program(body, nuisance), guides_of(posterior, nuisance), D, log_px)


def funnel(sigma, D=4):
    """A layer of latents whose scale is a latent: v ~ N(0, 2), z ~ N(0, exp(v)), x ~ N(z, sigma)."""

    def body(x):
        v = pyro.sample("v", Normal(x.new_zeros(1), 2).to_event(1))
        z = pyro.sample("z", Normal(x.new_zeros(D), v.exp()).to_event(1))
        pyro.sample("x", Normal(z, sigma).to_event(1), obs=x)

    def posterior(x):
        size = x.square().mean(-1, keepdim=True)
        v = 0.5 * (size - sigma**2).clamp_min(0.1 * sigma**2).log()
        scale = (sigma**-2 + (-2 * v).exp()).rsqrt()
        return {
            "v": (Normal, v, torch.full_like(v, 0.4)),
            "z": (Normal, x * (scale / sigma) ** 2, scale.expand(-1, D)),
        }

    def log_px(x):
        def log_f(v):
            scale = (sigma**2 + (2 * v).exp()).sqrt().unsqueeze(-1)
            return Normal(0.0, 2.0).log_prob(v) + Normal(0.0, scale).log_prob(x).sum(-1)

        return integrate(log_f, -16, 16, 4001)

    return Audit(program(body, 0), guides_of(posterior, 0), D, log_px)


def cauchy(D=1, nuisance=0):
    """Cauchy prior, Gaussian noise."""

    def body(x):
        z = pyro.sample("z", Cauchy(x.new_zeros(D), 1).to_event(1))
        pyro.sample("x", Normal(z, 1).to_event(1), obs=x)

    def posterior(x):
        return {"z": (Normal, x * x.square() / (1.5 + x.square()), torch.full_like(x, 0.9))}

    def log_px(x):
        def log_f(t):  # around each x
            z = x.flatten() + t
            return Cauchy(0.0, 1.0).log_prob(z) + Normal(0.0, 1.0).log_prob(t)

        return integrate(log_f, -12, 12, 4001).reshape(x.shape).sum(-1)

    return Audit(program(body, nuisance), guides_of(posterior, nuisance), D, log_px)


def sharp(sigma=1e-3, D=5, square=False):
    """A nonlinear decoder with very little noise: x₁ = z₁, or z₁² with two modes; the others are z + 2 sin(3 z₁)."""

    def first(z):
        return z.square() if square else z

    def decode(z):
        return torch.cat([first(z[..., :1]), z[..., 1:] + 2 * (3 * z[..., :1]).sin()], -1)

    def body(x):
        z = pyro.sample("z", Normal(x.new_zeros(D), 1).to_event(1))
        pyro.sample("x", Normal(decode(z), sigma).to_event(1), obs=x)

    def at(sign):
        def posterior(x):
            z1 = sign * x[:, :1].clamp_min(0).sqrt() if square else x[:, :1]
            z = torch.cat([z1, x[:, 1:] - 2 * (3 * z1).sin()], -1)
            return {"z": (Normal, z, torch.full_like(x, 2 * sigma))}

        return posterior

    def log_px(x):
        values = []
        for row in x:
            root = row[0].clamp_min(0).sqrt()
            centers = [(-1.1 * root - 0.1, 1.1 * root + 0.1)] if square else [(row[0] - 0.02, row[0] + 0.02)]

            def log_f(t, row=row):
                rest = Normal(2 * (3 * t).sin(), math.hypot(1, sigma)).log_prob(row[1:]).sum(-1, keepdim=True)
                return Normal(0.0, 1.0).log_prob(t) + Normal(first(t), sigma).log_prob(row[0]) + rest

            (low, high), nodes = centers[0], 200001 if square else 4001
            values.append(integrate(log_f, float(low), float(high), nodes).squeeze(-1))
        return torch.stack(values)

    return Audit(program(body, 0), guides_of(at(1), 0, at(-1) if square else None), D, log_px)


def linear(D=100, condition=1e4, nuisance=1):
    """A linear-Gaussian model whose posterior precision I + WᵀW has a large condition number."""
    generator = torch.Generator().manual_seed(1)
    U, _, V = torch.linalg.svd(torch.randn(D, D, generator=generator, dtype=torch.float64))
    W = U * (torch.logspace(0, math.log10(condition), D, dtype=torch.float64) - 1).sqrt() @ V
    P = torch.eye(D).double() + W.T @ W
    A, scale = torch.linalg.solve(P, W.T), P.diagonal().rsqrt()

    def body(x):
        z = pyro.sample("z", Normal(x.new_zeros(D), 1).to_event(1))
        pyro.sample("x", Normal(z @ W.T.to(x), 1).to_event(1), obs=x)

    def posterior(x):
        return {"z": (Normal, x @ A.T.to(x), scale.to(x).expand(len(x), -1))}

    def log_px(x):
        covariance = torch.eye(D).double() + W @ W.T
        return torch.distributions.MultivariateNormal(x.new_zeros(D), covariance).log_prob(x)

    return Audit(program(body, nuisance), guides_of(posterior, nuisance), D, log_px)


AUDIT = {
    "banana, 0.05": lambda: banana(0.05, nuisance=2),
    "banana, 0.5": lambda: banana(0.5, nuisance=2),
    "mixture": lambda: mixture(2, nuisance=2),
    "mixture, 6-D": lambda: mixture(6, away=3.0),
    "gamma": lambda: poisson("gamma", nuisance=3),
    "gammas": lambda: poisson("gamma", D=5),
    "lognormals": lambda: poisson("lognormal", D=5),
    "half-Cauchys": lambda: poisson("half_cauchy", D=5),
    "funnel": lambda: funnel(1.0),
    "sharp funnel": lambda: funnel(0.1, D=6),
    "Cauchy": lambda: cauchy(nuisance=3),
    "Cauchys": lambda: cauchy(D=5),
    "sharp": lambda: sharp(),
    "sharp, two modes": lambda: sharp(square=True),
    "linear": lambda: linear(),
}
"""The models by name, each of 4 or more dimensions."""

SMALL = {
    "banana, 0.05": lambda: banana(0.05),
    "banana, 0.5": lambda: banana(0.5),
    "mixture": mixture,
    "gamma": lambda: poisson("gamma"),
    "lognormal": lambda: poisson("lognormal"),
    "half-Cauchy": lambda: poisson("half_cauchy"),
    "Cauchy": cauchy,
}
"""The models of at most 2 dimensions, for quadrature."""
