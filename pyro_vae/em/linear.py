"""A decoder of one layer, and the scale of a Gaussian likelihood: what closed-form M-steps set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae.vae import VAE


def decoder_layer(vae: VAE) -> nn.Linear:
    """The one linear layer of a linear decoder."""
    return next(module for module in vae.decoder.modules() if isinstance(module, nn.Linear))


def inverse_softplus(y: Tensor) -> Tensor:
    """x with log(1 + eˣ) = y; a y below its range becomes the smallest there is."""
    y = y.clamp_min(1e-9)
    return y + torch.log(-torch.expm1(-y))
