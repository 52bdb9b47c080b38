"""Latents so close to a bound of their support that floating-point numbers cannot tell them apart."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Beta, Normal
from torch.nn.functional import logsigmoid

from pyro_vae.marginal import Auto, Sandwich, sandwich
from pyro_vae.programs.density import Latents


def programs(a, D):
    """z ~ Beta(a, a) in D dimensions, x ~ N(2 z, 0.5)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Beta(x.new_full((D,), a), x.new_full((D,), a)).to_event(1))
            pyro.sample("x", Normal(2 * z, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Beta(x.new_full((len(x), D), 0.5), 0.5).to_event(1))

    return model, guide


def log_px(x, a):
    """By a grid over log(z / (1 − z))."""
    u = torch.linspace(-800, 800, 100_001).double()[:, None, None]
    prior = a * (logsigmoid(u) + logsigmoid(-u)) - (2 * math.lgamma(a) - math.lgamma(2 * a))
    likelihood = Normal(2 * torch.sigmoid(u), 0.5).log_prob(x.double())
    return (torch.logsumexp(prior + likelihood, 0) + math.log(1600 / 100_000)).sum(-1)


def simulate(a, D, N):
    return (2 * Beta(a, a).sample((N, D)) + 0.5 * torch.randn(N, D)).float()


@pytest.mark.parametrize(("a", "D", "share"), [(0.05, 1, 0.3), (0.3, 1, 0.0), (2.0, 1, 0.0)])
def test_estimates_that_miss_a_part_are_unreliable(a, D, share, caplog):
    x = simulate(a, D, 12)
    evidence = Auto(compile=False)(*programs(a, D), x)
    off = (evidence.log_px - log_px(x, a)).abs() > 0.1
    assert off.double().mean() >= share
    assert evidence.unreliable[off].all()
    assert (evidence.unreliable.double().mean() > 0.1) == (share > 0)
    assert ("rounding changes the density" in caplog.text) == (share > 0)


@pytest.mark.parametrize("seen", [False, True])
def test_such_bounds_are_not_certified(seen, monkeypatch):
    if not seen:
        monkeypatch.setattr(sandwich, "is_rounded", lambda *_: None)
    x = torch.full((1, 1), 1.5)
    evidence = Sandwich(1000, num_starts=4, num_draws=16, num_warmup=10, compile=False)(*programs(0.05, 1), x)
    assert (evidence.extra["log_px_upper"] < log_px(x, 0.05) - 0.1).all()
    assert evidence.extra["certified"].tolist() == [not seen]


def test_rounding_near_bounds():
    latents = Latents.of(programs(2.0, 1)[0], torch.zeros(2, 1))
    u = torch.tensor([-80.0, -20.0, 0.0, 14.0, 17.0, 80.0])[:, None, None]
    assert latents.rounds(u).squeeze(-1).tolist() == [False, False, False, False, True, True]
    assert latents.rounds(u.double()).squeeze(-1).tolist() == [False, False, False, False, False, True]
