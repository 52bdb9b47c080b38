from functools import partial

import numpy as np
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, InverseAutoregressive, LowRank
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP, Conv
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


@pytest.mark.parametrize("network", [MLP([8, 4]), MLP([]), Conv([3, 5], hidden=7), Conv([2, 3, 4], hidden=5)])
@pytest.mark.parametrize("data_shape", [(28, 28), (1, 8, 8), (3, 9, 13), (1, 5, 2)])
def test_shapes_for_any_number_of_batch_dimensions(network, data_shape):
    encoder, decoder = network.encoder(data_shape), network.decoder(2, (2, *data_shape))
    x, z = torch.randn(3, 4, *data_shape), torch.randn(3, 4, 2)
    assert encoder(x).shape[:-1] == (3, 4)
    assert decoder(z).shape == (3, 4, 2, *data_shape)
    torch.testing.assert_close(encoder(x)[1], encoder(x[1]))
    torch.testing.assert_close(decoder(z)[1], decoder(z[1]))


def test_mlp_has_the_widths_asked_for():
    linear = [m for m in MLP([200, 100]).decoder(20, (1, 28, 28)) if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(20, 100), (100, 200), (200, 784)]


@pytest.mark.parametrize("guide", [Diagonal, partial(InverseAutoregressive, hidden=[8])])
def test_glorot_starts_within_its_bounds_at_the_mean_of_the_data(guide):
    x = (torch.rand(500, 1, 4, 5) < torch.rand(1, 4, 5)).float()
    x[:, :, 0] = 0  # pixels that are never set
    vae = VAE.build([1, 4, 5], 3, MLP([30, 20], init="glorot"), StandardNormal, Bernoulli, guide)
    vae.initialize(x)
    torch.testing.assert_close(vae.decode(torch.zeros(3)), x.mean(0).clamp(0.05, 0.95))  # tanh(0) = 0
    layers = [m for part in (vae.encoder, vae.decoder, vae.posterior) for m in part.modules()]
    layers = [m for m in layers if type(m).__name__ in ("Linear", "Heads")]
    assert len(layers) == 2 + 3 + 1
    for layer in layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        # a uniform's largest of n is within 10/n of its bound, but for e^-10 of the times
        assert bound * (1 - 10 / layer.weight.numel()) < layer.weight.abs().max() <= bound
    if guide is not Diagonal:  # the flow is still the identity
        assert all(not t.nn.layers[-1].weight.any() for t in vae.posterior.transforms)


def test_an_unknown_init_is_refused():
    with pytest.raises(BadInput, match="init=he.*torch, glorot"):
        MLP(init="he")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP([0]), "hidden=0"),
        (lambda: MLP([8], activation="step"), "activation=step.*tanh"),
        (lambda: Conv([]), "channels"),
        (lambda: Conv([4, -1]), "channels=-1"),
        (lambda: Conv([4]).encoder([12]), r"network=conv needs images.*\[12\]"),
    ],
)
def test_refuses_bad_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize(
    "shape",
    [[12, 16, 3], [28, 28, 1], [32, 32, 3], [64, 48, 4], [480, 640, 3], [720, 1280, 3], [100, 300, 3], [300, 100, 4]],
)
def test_images_with_their_channels_last_are_refused(shape):
    with pytest.raises(BadInput, match=r"channels last: give x.transpose\(0, 3, 1, 2\)"):
        Conv([4]).encoder(shape)


@pytest.mark.parametrize(
    "shape",
    [
        [3, 12, 16],
        [3, 12, 4],
        [2, 4, 4],
        [8, 8],
        [16, 100, 1],
        [8, 28, 4],
        [64, 200, 1],
        [1, 28, 28],
        [4, 9, 3],
        [5, 3],
    ],
)
def test_shapes_that_may_have_their_channels_first_are_taken(shape):
    network = Conv([4], hidden=3)
    assert network.encoder(shape)(torch.rand(2, *shape)).shape == (2, 3)
    assert network.decoder(3, [1, *shape])(torch.rand(2, 3)).shape == (2, 1, *shape)


def test_glorot_alike_is_the_start_of_the_authors_code():
    """Each matrix `[n_in, n_out]` is drawn by a generator of the same seed, for mean and log scale apart."""
    vae = VAE.build([4, 5], 3, MLP([30, 20], init="glorot_alike"), StandardNormal, Bernoulli, Diagonal)

    def drawn(n_in, n_out):
        scale = np.sqrt(6.0 / (n_in + n_out))
        return torch.tensor(np.random.RandomState(123).uniform(-scale, scale, (n_in, n_out)).T, dtype=torch.float32)

    head = vae.posterior.loc_log_scale
    assert torch.equal(head.weight, torch.cat([drawn(20, 3), drawn(20, 3)]))
    assert not head.bias.any()
    assert torch.equal(vae.encoder[1].weight, drawn(20, 30))
    assert torch.equal(vae.decoder[-2].weight, drawn(30, 20))
    x = (torch.rand(50, 4, 5) < 0.3).float()
    vae.initialize(x)
    torch.testing.assert_close(vae.decode(torch.zeros(3)), x.mean(0).clamp(0.05, 0.95))


@pytest.mark.parametrize("guide", [FullCovariance, LowRank])
def test_glorot_alike_starts_the_heads_of_all_gaussian_guides_alike(guide):
    vae = VAE.build([4, 5], 3, MLP([30, 20], init="glorot_alike"), StandardNormal, Bernoulli, guide)
    loc, log_scale = vae.posterior.loc_log_scale.weight.chunk(2)
    assert torch.equal(loc, log_scale)
