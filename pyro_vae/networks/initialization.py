"""How layers start."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

INITS = ("torch", "glorot", "glorot_alike")


class Heads(nn.Linear):
    """Two linear layers of one input, a mean and a log scale say: `[..., m]` -> `[..., 2n]`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, 2 * out_features)


def glorot_(vae: nn.Module, alike: bool = False) -> None:
    """Start linear layers as Burda, Grosse & Salakhutdinov (2016) did, https://arxiv.org/abs/1509.00519.

    Weights are U(±√(6 / (fan_in + fan_out))) (Glorot & Bengio 2010, eq. 16), biases 0. Layers that start at zero for a
    reason stay there.

    Args:
        vae: whose layers.
        alike: as their code has it, https://github.com/yburda/iwae (nnet.py): each layer draws from a generator of the
            same seed, and layers of one shape start alike, so means and log scales.
    """
    for layer in vae.modules():
        if isinstance(layer, nn.Linear) and type(layer) in (nn.Linear, Heads) and layer.weight.any():
            if alike:
                for weight in layer.weight.data.chunk(2 if isinstance(layer, Heads) else 1):
                    weight.copy_(_of_one_seed(*weight.shape))
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _of_one_seed(n_out: int, n_in: int) -> Tensor:
    """Their very numbers `[n_out, n_in]`."""
    bound = math.sqrt(6 / (n_in + n_out))
    return torch.from_numpy(np.random.RandomState(123).uniform(-bound, bound, (n_in, n_out)).T)
