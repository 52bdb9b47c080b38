"""The contract of network architectures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import nn

from pyro_vae.errors import BadInput


class Network:
    """An architecture, which builds the encoder and the decoder of a VAE.

    Example:
        Linear networks:

        >>> import math
        >>> import torch
        >>> class Linear(Network):
        ...     def encoder(self, data_shape, context_dim=0):
        ...         return nn.Flatten(-len(data_shape))
        ...
        ...     def decoder(self, latent_dim, param_shape, context_dim=0):
        ...         linear = nn.Linear(latent_dim, math.prod(param_shape))
        ...         return nn.Sequential(linear, nn.Unflatten(-1, tuple(param_shape)))
        >>> Linear().decoder(2, [1, 28, 28])(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 28, 28])
    """

    init: str = "torch"
    """Start of all linear layers of the VAE: one of `pyro_vae.networks.initialization.INITS`."""

    @abstractmethod
    def encoder(self, data_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build a module x `[..., *data_shape]` -> features `[..., num_features]`.

        If context_dim is not 0, it also accepts a context c `[N, context_dim]`, such as a one-hot label: encoder(x, c).
        To sum over classes (`conditioning=semi_supervised`), it must broadcast the batch shapes of x and c.
        """

    @abstractmethod
    def decoder(self, latent_dim: int, param_shape: Sequence[int], context_dim: int = 0) -> nn.Module:
        """Build a module z `[..., latent_dim]` -> h `[..., *param_shape]`, the parameters of the likelihood.

        If context_dim is not 0, it also accepts a context c `[N, context_dim]`: decoder(z, c).
        """

    def upper(self) -> tuple[Network, Network]:
        """Return two architectures whose encoders lead from one stochastic layer up to the next, and back down.

        Raises:
            BadInput: by default, since only models with several stochastic layers need them.
        """
        raise BadInput(
            f"network={type(self).__name__} does not define upper(), which several stochastic layers need: set "
            "latent_dim to a single number, or define it"
        )
