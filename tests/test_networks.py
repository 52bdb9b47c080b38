import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.networks import MLP, Conv


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP([0]), "network.hidden=0"),
        (lambda: MLP([8], activation="step"), "network.activation=step.*tanh"),
        (lambda: Conv([]), "network.channels"),
        (lambda: Conv([4, -1]), "network.channels=-1"),
        (lambda: Conv([4]).encoder([12]), r"network=conv needs images.*\[12\]"),
    ],
)
def test_refuses_bad_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()
