"""The parts of a linear Gaussian decoder, which closed-form M-steps set."""

from __future__ import annotations

from torch import nn

from pyro_vae.likelihoods import Gaussian
from pyro_vae.vae import VAE


def decoder_layer(vae: VAE) -> nn.Linear:
    """Return the one linear layer of a linear decoder."""
    return next(module for module in vae.decoder.modules() if isinstance(module, nn.Linear))


def likelihood_of(vae: VAE) -> Gaussian:
    """Return the Gaussian likelihood."""
    assert isinstance(vae.likelihood, Gaussian)
    return vae.likelihood
