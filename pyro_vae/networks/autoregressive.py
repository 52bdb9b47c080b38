"""Masked networks, whose outputs depend only on earlier inputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn

from pyro_vae.errors import BadInput, positive_ints


def autoregressive_network(
    num_features: int,
    latent_dim: int,
    hidden: Sequence[int],
    reverse: bool = False,
    network_class: type[ConditionalAutoRegressiveNN] = ConditionalAutoRegressiveNN,
    param_dims: Sequence[int] = (1, 1),
) -> Any:
    """Build a masked network: z `[..., D]`, h `[..., num_features]` -> `param_dims` numbers of z_{<d} and h.

    Germain et al. (2015), MADE, https://arxiv.org/abs/1502.03509. The last layer starts at zero.

    Raises:
        BadInput: if a width is not a positive integer, or less than D.
    """
    if not hidden:
        raise BadInput("hidden=[] has no layer: give the width of one at least, as in [64]")
    for width in positive_ints("hidden", hidden):
        if width < latent_dim:
            raise BadInput(f"hidden={list(hidden)} must not be narrower than latent_dim={latent_dim}")
    order: Any = torch.arange(latent_dim)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input_dim = 1")  # a single dimension depends only on h
        network = network_class(
            latent_dim,
            num_features,
            list(hidden),
            param_dims=list(param_dims),
            permutation=order.flip(0) if reverse else order,
            nonlinearity=nn.ELU(),
        )
    for parameter in network.layers[-1].parameters():
        nn.init.zeros_(parameter)
    return network
