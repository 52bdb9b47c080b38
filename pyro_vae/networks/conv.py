"""Convolutional networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.errors import MAX_WIDTH, BadInput, one_of, positive_int, positive_ints
from pyro_vae.networks.layers import ACTIVATIONS, WithContext, stack
from pyro_vae.networks.mlp import MLP
from pyro_vae.networks.network import Network

log = logging.getLogger(__name__)


class Conv(Network):
    """Strided convolutions in the encoder, transposed convolutions in the decoder, for images of any size.

    `Conv1d` does the same for series.

    Args:
        channels: number of channels of each layer; a layer halves height and width.
        hidden: width of the fully connected layer between the convolutions and the latent.
        activation: one of `ACTIVATIONS`.
        upper_hidden: widths of the fully connected layers between one stochastic layer and the next.

    Example:
        >>> import torch
        >>> network = Conv(channels=[8, 16], hidden=32)
        >>> network.encoder([1, 28, 28])(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 32])
        >>> network.decoder(2, [1, 1, 28, 28])(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 1, 28, 28])
    """

    kernel_size: int = 3
    down: ClassVar[Any] = nn.Conv2d
    up: ClassVar[Any] = nn.ConvTranspose2d

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
        """Build x `[..., *data_shape]` -> `[..., hidden]`; data_shape is `[H, W]` or `[C, H, W]`.

        The context is appended to the output of the convolutions.

        Raises:
            BadInput: if the data have another shape.
        """
        in_channels, sizes = self._channels_and_sizes(data_shape)
        act = ACTIVATIONS[self.activation]
        layers = [
            layer
            for m, n in pairwise([in_channels, *self.channels])
            for layer in (self.down(m, n, self.kernel_size, stride=2, padding=self.kernel_size // 2), act())
        ]
        flat = self.channels[-1] * math.prod(sizes[-1])
        convolutions = _PerImage([in_channels, *sizes[0]], len(data_shape), nn.Sequential(*layers, nn.Flatten()))
        head = nn.Sequential(nn.Linear(flat + context_dim, self.hidden), act())
        return WithContext(convolutions, head) if context_dim else nn.Sequential(convolutions, *head)

    def decoder(self, latent_dim: int, param_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build z `[..., latent_dim]` -> `[..., *param_shape]`; param_shape is `[num_params, *data_shape]`.

        The context is appended to z.
        """
        num_params, *data_shape = param_shape
        out_channels, sizes = self._channels_and_sizes(data_shape)
        act = ACTIVATIONS[self.activation]
        small = (self.channels[-1], *sizes[-1])
        layers: list[nn.Module] = [
            *stack([latent_dim + context_dim, self.hidden, math.prod(small)], self.activation),
            nn.Unflatten(-1, small),
        ]
        channels = [*reversed(self.channels), num_params * out_channels]
        for (m, n), (low, high) in zip(pairwise(channels), pairwise(reversed(sizes)), strict=True):
            # 2·low − 1 + output_padding = high, whether high was even or odd
            more = tuple(b - 2 * a + 1 for a, b in zip(low, high, strict=True))
            k = self.kernel_size
            layers += [self.up(m, n, k, stride=2, padding=k // 2, output_padding=more), act()]
        layers[-1] = nn.Flatten()  # no activation on the parameters of p(x | z)
        network = _PerImage([latent_dim + context_dim], 1, nn.Sequential(*layers, nn.Unflatten(-1, tuple(param_shape))))
        return WithContext(nn.Identity(), network) if context_dim else network

    def upper(self) -> tuple[MLP, MLP]:
        """Return fully connected networks, since latents are not images."""
        return MLP(upper_hidden=self.upper_hidden, activation=self.activation).upper()

    def _channels_and_sizes(self, data_shape: Sequence[int]) -> tuple[int, list[tuple[int, ...]]]:
        """Return the number of channels, and the sizes before the first and after each halving layer."""
        channels, size = self._input(data_shape)
        sizes = [size]
        for _ in self.channels:
            sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
        return channels, sizes

    def _input(self, data_shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Return the number of channels and the size of a datapoint."""
        needs = f"network=conv needs images of shape [H, W] or [C, H, W], the data have {list(data_shape)}"
        if len(data_shape) not in (2, 3):
            raise BadInput(f"{needs}: use network=mlp or reshape them")
        channels, height, width = (1, *data_shape)[-3:]
        if _channels_last(channels, height, width):
            raise BadInput(f"{needs}, channels last: give x.transpose(0, 3, 1, 2)")
        if len(data_shape) == 2 and min(height, width) < 8 and max(height, width) > 4 * min(height, width):
            log.warning(
                "network=conv takes x [N, %d, %d] for images of one channel: for series [N, C, L], use network=conv1d; "
                "for images, give [N, 1, H, W]",
                height, width,
            )  # fmt: skip
        return channels, (height, width)


def _channels_last(first: int, second: int, last: int) -> bool:
    """Whether a shape is probably `[H, W, C]`, not `[C, H, W]`, which `[16, 100, 1]` may be.

    Height and width of images are similar, or both are large.
    """
    short, long = sorted((first, second))
    return last in (1, 3, 4) and short > 4 and (long < 2 * short or (last > 1 and short >= 64))


class _PerImage(nn.Module):
    """Apply a network that accepts one batch dimension to inputs with any number of batch dimensions."""

    def __init__(self, input_shape: Sequence[int], event_dim: int, network: nn.Module) -> None:
        super().__init__()
        self.input_shape, self.event_dim, self.network = list(input_shape), event_dim, network

    def forward(self, x: Tensor) -> Tensor:
        batch_shape = x.shape[: x.dim() - self.event_dim]
        out: Tensor = self.network(x.reshape(-1, *self.input_shape))
        return out.reshape(torch.Size(batch_shape) + out.shape[1:])
