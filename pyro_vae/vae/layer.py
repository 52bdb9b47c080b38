"""A stochastic layer above another."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.guides.guide import Guide


class Layer(nn.Module):
    """A stochastic layer z_{l+1} above z_l, with the distributions that lead down and up.

    Args:
        decoder: module, z_{l+1} -> features.
        conditional: head, features -> p(z_l | z_{l+1}).
        encoder: module, z_l -> features.
        posterior: head, features -> q(z_{l+1} | z_l).
    """

    def __init__(self, decoder: nn.Module, conditional: Guide, encoder: nn.Module, posterior: Guide) -> None:
        super().__init__()
        self.decoder = decoder
        self.conditional = conditional
        self.encoder = encoder
        self.posterior = posterior

    def below(self, z: Tensor) -> TorchDistributionMixin:
        """Return p(z_l | z_{l+1} = z)."""
        return self.conditional(self.decoder(z))

    def above(self, z: Tensor) -> TorchDistributionMixin:
        """Return q(z_{l+1} | z_l = z)."""
        return self.posterior(self.encoder(z))
