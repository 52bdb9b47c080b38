"""The variational autoencoder as two Pyro programs, and what its users do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.data.arrays import as_numpy, unit_floats
from pyro_vae.errors import BadInput, positive_int


class VAE(nn.Module):
    """A generative model p(x, z) = p(z) p(x | z) and its amortized guide q(z | x).

    `model` and `guide` are plain Pyro programs: pass them to `pyro.infer.SVI`, `Predictive`, `MCMC` and so on.

    Args:
        data_shape: shape of one datapoint.
        prior: module, `prior(y)` -> p(z | y).
        decoder: module, z `[..., latent_dim]` -> h.
        likelihood: module, `likelihood(h)` -> p(x | z).
        encoder: module, x `[N, *data_shape]` -> features.
        posterior: module, `posterior(features)` -> q(z | x); its families are in `guides.py`.

    Source: Kingma & Welling (2014), Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114.

    Example:
        >>> import torch
        >>> from pyro_vae.guides import Diagonal
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormal
        >>> vae = VAE.build([28, 28], 2, MLP([16]), StandardNormal, Bernoulli, Diagonal)
        >>> vae.sample(3).shape
        torch.Size([3, 28, 28])
    """

    likelihood: Any  # a module with `check`

    def __init__(
        self,
        data_shape: Sequence[int],
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        encoder: nn.Module,
        posterior: nn.Module,
    ) -> None:
        super().__init__()
        self.data_shape = torch.Size(data_shape)
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.encoder = encoder
        self.posterior = posterior

    @classmethod
    def build(
        cls, data_shape: Sequence[int], latent_dim: int, network: Any, prior: Any, likelihood: Any, guide: Any
    ) -> VAE:
        """The VAE of these families: `prior`, `likelihood` and `guide` are classes (or partials) of theirs.

        Raises:
            BadInput: if latent_dim is no positive whole number, or the network does not fit the data.
        """
        positive_int("latent_dim", latent_dim)
        p_x = likelihood(data_shape)
        decoder = network.decoder(latent_dim, p_x.param_shape)
        encoder = network.encoder(data_shape)
        with torch.no_grad():
            num_features = encoder(torch.zeros(1, *data_shape)).shape[-1]
        return cls(data_shape, prior(latent_dim), decoder, p_x, encoder, guide(num_features, latent_dim))

    # The probabilistic program ------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z) = p(z) p(x | z) for x `[N, *data_shape]`; sites `z` and `x`, plate `data`."""
        pyro.module("prior", self.prior)
        pyro.module("decoder", self.decoder)
        pyro.module("likelihood", self.likelihood)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior(y))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x) for x `[N, *data_shape]`; site `z`, plate `data`."""
        pyro.module("encoder", self.encoder)
        pyro.module("posterior", self.posterior)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.posterior(self.encoder(x)))

    # For users ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor | np.ndarray) -> Tensor:
        """Embedding of x `[N, *data_shape]`, bytes or floats: the mean of q(z | x), `[N, latent_dim]`.

        The whole distribution is `vae.posterior(vae.encoder(x))`.
        """
        mean: Tensor = self._q(x).mean
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray) -> Tensor:
        """The mean of p(x | z) for z `[..., latent_dim]`: `[..., *data_shape]`.

        The whole distribution is `vae.likelihood(vae.decoder(z))`.
        """
        mean: Tensor = self._p(self._z(z)).mean
        return mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor | np.ndarray) -> Tensor:
        """The mean of p(x | z) at the embedding z of x: `[N, *data_shape]` -> `[N, *data_shape]`."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """`n` draws x ~ p(x | z), z ~ p(z): `[n, *data_shape]`; with `mean` the means of p(x | z) instead."""
        p_z = self.prior(None).expand([positive_int("n", n)])
        p_x = self._p(p_z.sample())
        x: Tensor = p_x.mean if mean else p_x.sample()
        return x

    def log_prob(self, x: Tensor | np.ndarray, num_samples: int = 1000) -> Tensor:
        """log p(x) in nats per datapoint by importance sampling from the guide: `[N]`, float64.

        `pyro_vae.marginal.Importance` gives standard errors and effective sample sizes with it.
        """
        from pyro_vae.marginal import Importance  # estimators stand above the VAE

        # a store of its own: parameters registered here would keep another VAE of this process from training
        with pyro.get_param_store().scope():
            return Importance(num_samples=num_samples)(self.model, self.guide, self._data(x)).log_px

    def _q(self, x: Tensor | np.ndarray) -> TorchDistributionMixin:
        return self.posterior(self.encoder(self._data(x)))

    def _p(self, z: Tensor) -> TorchDistributionMixin:
        return self.likelihood(self.decoder(z))

    def _z(self, z: Tensor | np.ndarray) -> Tensor:
        latent_dim = self.prior(None).event_shape[0]
        if z.ndim < 1 or z.shape[-1] != latent_dim:
            raise BadInput(f"z has shape {list(z.shape)}: this VAE needs [..., {latent_dim}]")
        return self._tensor(z)

    def _tensor(self, array: Tensor | np.ndarray) -> Tensor:
        like = next(self.parameters())
        return torch.as_tensor(array, dtype=like.dtype, device=like.device)

    def _data(self, x: Tensor | np.ndarray) -> Tensor:
        if tuple(x.shape[1:]) != tuple(self.data_shape):
            raise BadInput(f"x has shape {list(x.shape)}: this VAE needs [N, {', '.join(map(str, self.data_shape))}]")
        if not len(x):
            raise BadInput("x is empty: give one datapoint at least")
        if x.dtype in (torch.uint8, np.uint8):
            x = unit_floats(as_numpy(x))
        return self._tensor(x)
