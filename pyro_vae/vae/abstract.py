"""The two Pyro programs of a VAE, as its methods see them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.guides.guide import Guide
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.programs.trace import Program
from pyro_vae.vae.context import Context
from pyro_vae.vae.layer import Layer


class Programs(nn.Module):
    """The members of a `VAE` that its methods use."""

    data_shape: torch.Size
    latent_dim: tuple[int, ...]
    num_classes: int | None
    context: Context | None
    concat: bool
    missing: bool
    likelihood: Likelihood
    standardize: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    posterior: Guide
    layers: Sequence[Layer]

    @abstractmethod
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw p(x, z | y)."""

    @abstractmethod
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw q(z | x, y)."""

    @abstractmethod
    def p_z(self, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return p(z | y) of the top layer."""

    @abstractmethod
    def p_x(self, z: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return p(x | z, y)."""

    @abstractmethod
    def q_z(self, x: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return q(z | x, y) of the first layer."""

    def programs(self, y: Tensor | None = None) -> tuple[Program, Program]:
        """Return the model and the guide with which to estimate log p(x), or log p(x | y) given y."""
        return self.model, self.guide

    def factorizing_programs(self, y: Tensor | None = None) -> tuple[Program, Program]:
        """Return the model and the guide to impute with: entries of x are independent given all latents."""
        return self.programs(y)

    @property
    def needs_labels(self) -> bool:
        """Whether the programs need y: labels, or covariates."""
        return self.context is not None

    @property
    def _of_networks(self) -> Context | None:
        """What encodes y for encoder and decoder; None if they have no such input."""
        return self.context if self.concat else None

    @property
    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device of this VAE."""
        return next(self.parameters())
