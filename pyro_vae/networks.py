"""Network architectures: each builds the encoder and the decoder of a VAE.

encoder(data_shape)                x `[..., *data_shape]` -> features `[..., num_features]`
decoder(latent_dim, param_shape)   z `[..., latent_dim]` -> h `[..., *param_shape]`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.errors import BadInput, one_of, positive_int

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "softplus": nn.Softplus,
}  # fmt: skip


def _stack(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers between the widths, each followed by the activation."""
    act = ACTIVATIONS[activation]
    return [layer for m, n in pairwise(widths) for layer in (nn.Linear(m, n), act())]


class MLP:
    """Fully connected networks; the decoder has the encoder's widths in reverse.

    Args:
        hidden: widths, from the data to the latent; `[]` gives linear networks (probabilistic PCA).
        activation: one of `ACTIVATIONS`.
    """

    def __init__(self, hidden: Sequence[int] = (200, 200), activation: str = "tanh") -> None:
        self.hidden = [positive_int("network.hidden", width) for width in hidden]
        self.activation = one_of("network.activation", activation, tuple(ACTIVATIONS))

    def encoder(self, data_shape: Sequence[int]) -> nn.Module:
        """x `[..., *data_shape]` -> `[..., hidden[-1]]`."""
        flatten = nn.Flatten(-len(data_shape))
        return nn.Sequential(flatten, *_stack([math.prod(data_shape), *self.hidden], self.activation))

    def decoder(self, latent_dim: int, param_shape: Sequence[int]) -> nn.Module:
        """z `[..., latent_dim]` -> `[..., *param_shape]`."""
        widths = [latent_dim, *reversed(self.hidden)]
        last = nn.Linear(widths[-1], math.prod(param_shape))
        return nn.Sequential(*_stack(widths, self.activation), last, nn.Unflatten(-1, tuple(param_shape)))


class Conv:
    """Strided convolutions down to a feature vector, transposed ones back up; for images of any size.

    Args:
        channels: channels of the layers, each of which halves height and width.
        hidden: width of the fully connected layer between the convolutions and the latent.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(self, channels: Sequence[int] = (32, 64), hidden: int = 256, activation: str = "relu") -> None:
        if not channels:
            raise BadInput("network.channels=[] has no layer: give the channels of one at least, as in [32,64]")
        self.channels = [positive_int("network.channels", width) for width in channels]
        self.hidden = positive_int("network.hidden", hidden)
        self.activation = one_of("network.activation", activation, tuple(ACTIVATIONS))

    def encoder(self, data_shape: Sequence[int]) -> nn.Module:
        """x `[..., *data_shape]` -> `[..., hidden]`; data_shape is `[H, W]` or `[C, H, W]`.

        Raises:
            BadInput: if the data are no images.
        """
        in_channels, sizes = self._image(data_shape)
        act = ACTIVATIONS[self.activation]
        layers = [
            layer
            for m, n in pairwise([in_channels, *self.channels])
            for layer in (nn.Conv2d(m, n, kernel_size=3, stride=2, padding=1), act())
        ]
        flat = self.channels[-1] * math.prod(sizes[-1])
        return _PerImage(
            [in_channels, *sizes[0]],
            len(data_shape),
            nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, self.hidden), act()),
        )

    def decoder(self, latent_dim: int, param_shape: Sequence[int]) -> nn.Module:
        """z `[..., latent_dim]` -> `[..., *param_shape]`; param_shape is `[num_params, *data_shape]`."""
        num_params, *data_shape = param_shape
        image_channels, sizes = self._image(data_shape)
        act = ACTIVATIONS[self.activation]
        small = (self.channels[-1], *sizes[-1])
        layers: list[nn.Module] = [
            *_stack([latent_dim, self.hidden, math.prod(small)], self.activation),
            nn.Unflatten(-1, small),
        ]
        channels = [*reversed(self.channels), num_params * image_channels]
        for (m, n), (low, high) in zip(pairwise(channels), pairwise(reversed(sizes)), strict=True):
            # 2·low − 1 + output_padding = high, whether high was even or odd
            padding = (high[0] - 2 * low[0] + 1, high[1] - 2 * low[1] + 1)
            up = nn.ConvTranspose2d(m, n, kernel_size=3, stride=2, padding=1, output_padding=padding)
            layers += [up, act()]
        layers[-1] = nn.Flatten()  # no activation on the parameters of p(x | z)
        return _PerImage([latent_dim], 1, nn.Sequential(*layers, nn.Unflatten(-1, tuple(param_shape))))

    def _image(self, data_shape: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
        """Channels and the sizes `(H, W)` before the first, and after each, halving layer."""
        if len(data_shape) not in (2, 3):
            raise BadInput(
                f"network=conv needs images of shape [H, W] or [C, H, W], the data have {list(data_shape)}: "
                "take network=mlp or reshape them"
            )
        channels, height, width = (1, *data_shape)[-3:]
        sizes = [(height, width)]
        for _ in self.channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return channels, sizes


class _PerImage(nn.Module):
    """Applies a network that knows one batch dimension to inputs with any number of them."""

    def __init__(self, input_shape: Sequence[int], event_dim: int, network: nn.Module) -> None:
        super().__init__()
        self.input_shape, self.event_dim, self.network = list(input_shape), event_dim, network

    def forward(self, x: Tensor) -> Tensor:
        batch_shape = x.shape[: x.dim() - self.event_dim]
        out: Tensor = self.network(x.reshape(-1, *self.input_shape))
        return out.reshape(torch.Size(batch_shape) + out.shape[1:])
