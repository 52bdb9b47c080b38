"""Families of one's own must define the members of their contract."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


def build(**families):
    families = {"network": MLP([4]), "prior": StandardNormal, "likelihood": Bernoulli, "guide": Diagonal} | families
    return VAE.build([6], families.pop("latent_dim", 2), **families)


class Plain(nn.Module):
    """A module that knows nothing of the contracts."""

    def __init__(self, *args, **kwargs):
        super().__init__()


class Unfinished(Likelihood):
    discrete = False


class Undecided(Likelihood):
    def at(self, u):
        return dist.Normal(u.squeeze(-1 - self.event_dim), 1.0).to_event(self.event_dim)


class HalfANetwork(Network):
    def encoder(self, data_shape, context_dim=0):
        return nn.Flatten()


class NotAGuide(nn.Module):
    def __init__(self, num_features, latent_dim):
        super().__init__()

    def forward(self, h, log_joint=None):
        return dist.Normal(h, 1.0).to_event(1)


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (
            {"likelihood": Plain},
            "likelihood=Plain does not define at, discrete, param_shape, event_dim, offset: ",
        ),
        ({"likelihood": Unfinished}, "likelihood=Unfinished does not define at: .* pyro_vae.likelihoods.Likelihood"),
        ({"likelihood": Undecided}, "likelihood=Undecided does not define discrete: "),
        ({"guide": Plain}, "guide=Plain does not define forward: derive it from pyro_vae.guides.Guide"),
        ({"guide": NotAGuide}, "guide=NotAGuide is not a Guide: derive it from pyro_vae.guides.Guide"),
        ({"prior": Plain}, "prior=Plain does not define forward: derive it from pyro_vae.priors.Prior"),
        ({"network": HalfANetwork()}, "network=HalfANetwork does not define decoder: .* pyro_vae.networks.Network"),
        ({"network": Plain()}, "network=Plain does not define encoder, decoder: "),
    ],
)
def test_a_family_that_misses_a_member_is_refused(families, message):
    with pytest.raises(BadInput, match=message) as caught:
        build(**families)
    assert "\n" not in str(caught.value)


def test_a_network_without_upper_has_one_layer():
    class Linear(Network):
        def encoder(self, data_shape, context_dim=0):
            return nn.Flatten(-len(data_shape))

        def decoder(self, latent_dim, param_shape, context_dim=0):
            return nn.Sequential(nn.Linear(latent_dim, 6), nn.Unflatten(-1, tuple(param_shape)))

    assert build(network=Linear()).sample(3).shape == (3, 6)
    with pytest.raises(BadInput, match=r"network=Linear does not define upper\(\).*set latent_dim to a single number"):
        build(network=Linear(), latent_dim=[2, 2])


def test_defaults_of_a_likelihood():
    class Laplace(Undecided):
        discrete, unbounded = False, True

    x = 7 + 3 * torch.randn(100, 6)
    vae = build(likelihood=Laplace)
    vae.initialize(x)
    assert torch.allclose(vae.standardize.location, x.mean(0), atol=1e-5)
    assert vae.likelihood.check(x) is vae.likelihood.marginals(x) is None
    state = vae.state_dict()
    vae.load_state_dict({name: value for name, value in state.items() if name != "likelihood.offset"})
    assert torch.equal(vae.likelihood.offset, torch.zeros(1, 6))
