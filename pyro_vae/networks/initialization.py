"""Initial weights of linear layers."""

from __future__ import annotations

from torch import nn

from pyro_vae.networks.burda_code import weights_alike

INITS = ("torch", "glorot", "glorot_alike")


class Heads(nn.Linear):
    """Two linear layers with the same input, such as a mean and a log scale: `[..., m]` -> `[..., 2n]`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, 2 * out_features)


def glorot_(vae: nn.Module, alike: bool = False) -> None:
    """Initialize linear layers as Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519.

    Weights are U(±√(6 / (fan_in + fan_out))) (Glorot & Bengio 2010, eq. 16), biases 0. `Heads` count as one layer here,
    so that fan_out is 2n. Layers that start at zero stay there.

    Args:
        vae: the module that contains the layers.
        alike: draw the weights as in the authors' code (`burda_code`): layers of the same shape start with equal
            weights, including the means and log scales of Gaussian guides.
    """
    for layer in vae.modules():
        if isinstance(layer, nn.Linear) and type(layer) in (nn.Linear, Heads) and layer.weight.any():
            if alike:
                for weight in layer.weight.data.chunk(2 if isinstance(layer, Heads) else 1):
                    weight.copy_(weights_alike(*weight.shape))
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
