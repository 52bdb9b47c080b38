"""Convolutional networks for series."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from pyro_vae.errors import BadInput, positive_int
from pyro_vae.networks.conv import Conv

log = logging.getLogger(__name__)

MAX_KERNEL = 1025


class Conv1d(Conv):
    """Strided convolutions along the last dimension of series `[C, L]`, of any length L; see `Conv`.

    Entries that may be missing come with a mask, which doubles the encoder's channels.

    Args:
        channels: number of channels of each layer; a layer halves the length.
        kernel_size: width of the convolutions, an odd number.
        hidden: width of the fully connected layer between the convolutions and the latent.
        activation: one of `ACTIVATIONS`.
        upper_hidden: widths of the fully connected layers between one stochastic layer and the next.

    Example:
        >>> import torch
        >>> network = Conv1d(channels=[8, 16], hidden=32)
        >>> network.encoder([3, 101])(torch.zeros(5, 3, 101)).shape
        torch.Size([5, 32])
        >>> network.decoder(2, [1, 3, 101])(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 3, 101])
    """

    down: ClassVar[Any] = nn.Conv1d
    up: ClassVar[Any] = nn.ConvTranspose1d

    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        hidden: int = 256,
        activation: str = "relu",
        upper_hidden: Sequence[int] = (100, 100),
    ) -> None:
        super().__init__(channels, hidden, activation, upper_hidden)
        self.kernel_size = positive_int("kernel_size", kernel_size, MAX_KERNEL)
        if kernel_size % 2 == 0:
            raise BadInput(f"kernel_size={kernel_size} must be odd, so that padding keeps series centred")

    def decoder(self, latent_dim: int, param_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build z `[..., latent_dim]` -> `[..., *param_shape]`; param_shape is `[num_params, C, L]`.

        The context is appended to z.

        Raises:
            BadInput: if the data have another shape.
        """
        if len(param_shape) != 3:
            raise self._refusal(param_shape[1:])
        return super().decoder(latent_dim, param_shape, context_dim)

    def _input(self, data_shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        if len(data_shape) != 2 and (len(data_shape) != 3 or data_shape[0] != 2):  # [2, C, L] with the mask
            raise self._refusal(data_shape)
        *channels, length = data_shape
        if len(channels) == 1 and channels[0] > length:
            log.warning(
                "network=conv1d convolves along the last dimension, and x [N, %d, %d] has more channels than time "
                "steps: if its channels are last, give x.transpose(0, 2, 1)",
                channels[0], length,
            )  # fmt: skip
        return math.prod(channels), (length,)

    @staticmethod
    def _refusal(data_shape: Sequence[int]) -> BadInput:
        needs = f"network=conv1d needs series of shape [C, L], the data have {list(data_shape)}"
        if len(data_shape) == 1:
            return BadInput(f"{needs}: add a channel, x[:, None]")
        return BadInput(f"{needs}: use network=conv for images, or network=mlp")
