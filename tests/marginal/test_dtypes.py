"""Programs whose new tensors have another dtype than x and the parameters of their networks."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, Auto, Refined


class Programs(nn.Module):
    """z ~ N(0, 1), x ~ Laplace(z, 1), and a guide with a network."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Identity()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Laplace(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


X = torch.tensor([[0.3, -0.2, 1.0, 0.5], [2.0, -0.4, 0.1, 0.0]])


@pytest.mark.parametrize(
    "estimator",
    [Auto(200), Refined(200), AIS(100, num_temperatures=10, num_leapfrog=3)],
    ids=lambda estimator: estimator.name,
)
def test_model_and_guide_may_draw_with_different_dtypes(estimator, request):
    programs = Programs()
    estimator.compile = False
    expected = estimator(programs.model, programs.guide, X)
    request.getfixturevalue("double")
    evidence = estimator(programs.model, programs.guide, X)
    z = (evidence.log_px - expected.log_px) / (evidence.se.square() + expected.se.square()).sqrt()
    assert z.abs().max() < 4.5


def test_a_network_that_cannot_is_refused_in_one_line(double):
    programs = Programs()
    programs.float().decoder = nn.Linear(4, 4, dtype=torch.float32)
    with pytest.raises(BadInput, match=r"fails after site z \(.*dtype.*\): give x, all parameters .*x.new_zeros"):
        Auto(100)(programs.model, programs.guide, X)
