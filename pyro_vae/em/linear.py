"""The decoder's single layer, which closed-form M-steps set."""

from __future__ import annotations

from torch import nn

from pyro_vae.vae import VAE


def decoder_layer(vae: VAE) -> nn.Linear:
    """The one linear layer of a linear decoder."""
    return next(module for module in vae.decoder.modules() if isinstance(module, nn.Linear))
