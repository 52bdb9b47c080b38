"""Angles, whose density is periodic on the real line: it integrates to 1 from −π to π only."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Normal, VonMises

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Auto, Importance


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", VonMises(torch.zeros(1), 0.5).to_event(1))
        pyro.sample("x", Normal(torch.cat([z.cos(), z.sin()], -1), 0.3).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", VonMises(torch.zeros_like(x[:, :1]), 3.0).to_event(1))


def test_angles_are_integrated_once_around():
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 0.1], [0.8, 0.5], [-0.5, 0.2]])
    z = torch.linspace(-math.pi, math.pi, 2001)[:-1].reshape(-1, 1, 1)
    log_p = VonMises(torch.zeros(()), 0.5).log_prob(z).squeeze(-1)
    log_p = log_p + Normal(torch.cat([z.cos(), z.sin()], -1), 0.3).log_prob(x).sum(-1)
    truth = log_p.logsumexp(0) + math.log(2 * math.pi / 2000)
    assert (Auto(compile=False)(model, guide, x).log_px - truth).abs().max() < 0.05


def test_a_guide_on_the_whole_line_is_rejected_for_angles():
    def line(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(torch.zeros_like(x[:, :1]), 9.0).to_event(1))

    with pytest.raises(BadInput, match="outside its support"):
        Importance()(model, line, torch.zeros(3, 2))
