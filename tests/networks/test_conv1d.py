"""Convolutions along series of any length."""

import pytest
import torch

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.networks import Conv, Conv1d


@pytest.mark.parametrize("length", [1, 2, 7, 8, 33, 100])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_shapes_for_any_length_and_number_of_batch_dimensions(length, kernel_size):
    network = Conv1d([3, 4, 5], kernel_size, hidden=6)
    encoder, decoder = network.encoder([1, length]), network.decoder(2, (2, 1, length))
    x, z = torch.randn(3, 4, 1, length), torch.randn(3, 4, 2)
    assert encoder(x).shape == (3, 4, 6)
    assert decoder(z).shape == (3, 4, 2, 1, length)
    torch.testing.assert_close(encoder(x)[1], encoder(x[1]))
    torch.testing.assert_close(decoder(z)[1], decoder(z[1]))


def test_the_context_enters_encoder_and_decoder():
    network = Conv1d([3], hidden=6)
    c = torch.eye(4)
    assert network.encoder([2, 9], 4)(torch.randn(4, 2, 9), c).shape == (4, 6)
    assert network.decoder(2, [1, 2, 9], 4)(torch.zeros(4, 2), c).unique(dim=0).shape[0] == 4


def test_a_shifted_series_has_shifted_features_away_from_the_ends():
    """Two layers halve the length twice: a shift by 4 becomes one by 1. The padding reaches 6 entries inwards."""
    torch.manual_seed(0)
    convolutions = Conv1d([3, 5], hidden=6).encoder([2, 64])[0].network[:-1]  # before they are flattened
    x = torch.randn(1, 2, 64)
    h, shifted = convolutions(x), convolutions(x.roll(4, -1))
    torch.testing.assert_close(shifted[..., 3:-3], h.roll(1, -1)[..., 3:-3])
    assert not torch.allclose(shifted[..., 3:-3], h[..., 3:-3])


def test_channels_are_mixed_by_convolutions_not_treated_as_height():
    layer = Conv1d([3], kernel_size=7).encoder([4, 20])[0].network[0]
    assert layer.weight.shape == (3, 4, 7)


def waves(n=120, length=25):
    rng = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(n, 1, 1, generator=rng)
    time = torch.arange(length) / 4
    return torch.cat([(time + phase).sin(), (time + phase).cos()], 1) + 0.1 * torch.randn(n, 2, length, generator=rng)


OPTIONS = {
    "network": ("conv1d", {"channels": [4, 8], "hidden": 16}),
    "likelihood": "gaussian",
    "latent_dim": 2,
    "batch_size": 20,
    "lr": 0.01,
    "verbose": False,
}


def test_it_learns_series_and_is_saved(tmp_path):
    x = waves()
    vae = pyro_vae.fit(x, max_epochs=8, run_dir=tmp_path / "run", **OPTIONS)
    elbo = [row["train/elbo"] for row in vae.history]
    assert elbo[-1] > elbo[0] + 5
    assert vae.sample(3).shape == (3, 2, 25)
    assert torch.equal(pyro_vae.load(tmp_path / "run").encode(x), vae.encode(x))


def test_series_with_holes_come_with_their_mask():
    x = waves(40)
    x[::2, 1, 5:9] = torch.nan
    vae = pyro_vae.fit(x, max_epochs=1, **{**OPTIONS, "network": Conv1d([4], hidden=8)})
    assert vae.encode(x).isfinite().all()
    assert vae.encoder[0].network[0].in_channels == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv1d(kernel_size=4), "kernel_size=4 must be odd"),
        (lambda: Conv1d(kernel_size=0), "kernel_size=0"),
        (lambda: Conv1d([]), "channels"),
        (lambda: Conv1d().encoder([12]), r"network=conv1d needs series.*\[12\]: add a channel, x\[:, None\]"),
        (lambda: Conv1d().decoder(2, [1, 12]), r"add a channel"),
        (lambda: Conv1d().decoder(2, [1, 2, 8, 8]), "use network=conv for images"),
        (lambda: Conv1d().encoder([1, 8, 8]), "use network=conv for images"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_doubtful_shapes_are_named(caplog):
    Conv1d([2], hidden=2).encoder([100, 3])
    assert "channels are last, give x.transpose(0, 2, 1)" in caplog.text
    caplog.clear()
    Conv([2], hidden=2).encoder([3, 100])
    assert "for series [N, C, L], use network=conv1d" in caplog.text
    caplog.clear()
    Conv([2], hidden=2).encoder([28, 28])
    Conv([2], hidden=2).encoder([1, 3, 100])
    Conv1d([2], hidden=2).encoder([3, 100])
    assert not caplog.text
