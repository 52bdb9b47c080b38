"""Convolutional networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.errors import MAX_WIDTH, BadInput, one_of, positive_int, positive_ints
from pyro_vae.networks.layers import ACTIVATIONS, WithContext, stack
from pyro_vae.networks.mlp import MLP
from pyro_vae.networks.network import Network


class Conv(Network):
    """Strided convolutions down to a feature vector, transposed ones back up; for images of any size.

    Args:
        channels: channels of the layers, each of which halves height and width.
        hidden: width of the fully connected layer between the convolutions and the latent.
        activation: one of `ACTIVATIONS`.
        upper_hidden: widths of the fully connected layers between one stochastic layer and the next.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: str = "relu",
        upper_hidden: Sequence[int] = (100, 100),
    ) -> None:
        if not channels:
            raise BadInput("channels=[] has no layer: give the channels of one at least, as in [32,64]")
        self.channels = positive_ints("channels", channels)
        self.hidden = positive_int("hidden", hidden, MAX_WIDTH)
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))
        self.upper_hidden = upper_hidden

    def encoder(self, data_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """x `[..., *data_shape]` -> `[..., hidden]`; data_shape is `[H, W]` or `[C, H, W]`.

        The context joins what the convolutions found.

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
        convolutions = _PerImage([in_channels, *sizes[0]], len(data_shape), nn.Sequential(*layers, nn.Flatten()))
        head = nn.Sequential(nn.Linear(flat + context_dim, self.hidden), act())
        return WithContext(convolutions, head) if context_dim else nn.Sequential(convolutions, *head)

    def decoder(self, latent_dim: int, param_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """z `[..., latent_dim]` -> `[..., *param_shape]`; param_shape is `[num_params, *data_shape]`.

        The context joins z.
        """
        num_params, *data_shape = param_shape
        image_channels, sizes = self._image(data_shape)
        act = ACTIVATIONS[self.activation]
        small = (self.channels[-1], *sizes[-1])
        layers: list[nn.Module] = [
            *stack([latent_dim + context_dim, self.hidden, math.prod(small)], self.activation),
            nn.Unflatten(-1, small),
        ]
        channels = [*reversed(self.channels), num_params * image_channels]
        for (m, n), (low, high) in zip(pairwise(channels), pairwise(reversed(sizes)), strict=True):
            # 2·low − 1 + output_padding = high, whether high was even or odd
            padding = (high[0] - 2 * low[0] + 1, high[1] - 2 * low[1] + 1)
            up = nn.ConvTranspose2d(m, n, kernel_size=3, stride=2, padding=1, output_padding=padding)
            layers += [up, act()]
        layers[-1] = nn.Flatten()  # no activation on the parameters of p(x | z)
        network = _PerImage([latent_dim + context_dim], 1, nn.Sequential(*layers, nn.Unflatten(-1, tuple(param_shape))))
        return WithContext(nn.Identity(), network) if context_dim else network

    def upper(self) -> tuple[MLP, MLP]:
        """As of `MLP`: latents are no images."""
        return MLP(upper_hidden=self.upper_hidden, activation=self.activation).upper()

    def _image(self, data_shape: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
        """Channels and the sizes `(H, W)` before the first, and after each, halving layer."""
        if len(data_shape) not in (2, 3):
            raise BadInput(
                f"network=conv needs images of shape [H, W] or [C, H, W], the data have {list(data_shape)}: "
                "take network=mlp or reshape them"
            )
        channels, height, width = (1, *data_shape)[-3:]
        if _channels_last(channels, height, width):
            raise BadInput(
                f"network=conv needs images of shape [H, W] or [C, H, W], the data have {list(data_shape)}, channels "
                "last: give x.transpose(0, 3, 1, 2)"
            )
        sizes = [(height, width)]
        for _ in self.channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return channels, sizes


def _channels_last(first: int, second: int, last: int) -> bool:
    """Whether a shape is that of an image `[H, W, C]`, and hardly that of `[C, H, W]`, as `[16, 100, 1]` may be.

    Height and width of images are about the same, or large both.
    """
    short, long = sorted((first, second))
    return last in (1, 3, 4) and short > 4 and (long < 2 * short or (last > 1 and short >= 64))


class _PerImage(nn.Module):
    """Applies a network that knows one batch dimension to inputs with any number of them."""

    def __init__(self, input_shape: Sequence[int], event_dim: int, network: nn.Module) -> None:
        super().__init__()
        self.input_shape, self.event_dim, self.network = list(input_shape), event_dim, network

    def forward(self, x: Tensor) -> Tensor:
        batch_shape = x.shape[: x.dim() - self.event_dim]
        out: Tensor = self.network(x.reshape(-1, *self.input_shape))
        return out.reshape(torch.Size(batch_shape) + out.shape[1:])
