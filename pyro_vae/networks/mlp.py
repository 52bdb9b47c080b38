"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from pyro_vae.errors import one_of, positive_ints
from pyro_vae.networks.initialization import INITS
from pyro_vae.networks.layers import ACTIVATIONS, WithContext, stack
from pyro_vae.networks.network import Network


class MLP(Network):
    """Fully connected networks; the decoder has the encoder's widths in reverse.

    Args:
        hidden: widths, from the data to the latent; `[]` gives linear networks (probabilistic PCA).
        activation: one of `ACTIVATIONS`.
        upper_hidden: widths between one stochastic layer and the next.
        init: start of all linear layers of the VAE, including the guide's: `torch` (its default), `glorot` or
            `glorot_alike` (see `glorot_`).

    Example:
        >>> import torch
        >>> network = MLP(hidden=[64, 32])
        >>> network.encoder([28, 28])(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 32])
        >>> network.decoder(2, [1, 28, 28])(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        upper_hidden: Sequence[int] = (100, 100),
        init: str = "torch",
    ) -> None:
        self.hidden = positive_ints("hidden", hidden)
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))
        self.upper_hidden = positive_ints("upper_hidden", upper_hidden)
        self.init = one_of("init", init, INITS)

    def encoder(self, data_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build x `[..., *data_shape]` -> `[..., hidden[-1]]`; the context is appended to the input."""
        flatten = nn.Flatten(-len(data_shape))
        layers = stack([math.prod(data_shape) + context_dim, *self.hidden], self.activation)
        return WithContext(flatten, nn.Sequential(*layers)) if context_dim else nn.Sequential(flatten, *layers)

    def decoder(self, latent_dim: int, param_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build z `[..., latent_dim]` -> `[..., *param_shape]`; the context is appended to z."""
        widths = [latent_dim + context_dim, *reversed(self.hidden)]
        last = nn.Linear(widths[-1], math.prod(param_shape))
        network = nn.Sequential(*stack(widths, self.activation), last, nn.Unflatten(-1, tuple(param_shape)))
        return WithContext(nn.Identity(), network) if context_dim else network

    def upper(self) -> tuple[MLP, MLP]:
        """Return networks whose encoders lead from one stochastic layer up to the next, and back down."""
        return MLP(self.upper_hidden, self.activation), MLP(self.upper_hidden[::-1], self.activation)
