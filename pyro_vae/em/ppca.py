"""EM of probabilistic PCA, x = W z + b + σ ε: Tipping & Bishop (1999), JRSS B 61(3), appendix B."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.em.linear import decoder_layer, inverse_softplus
from pyro_vae.guides import FullCovariance
from pyro_vae.vae import VAE


def start(vae: VAE, x: Tensor) -> None:
    """b at its maximum-likelihood value, the mean of x `[N, *data_shape]`; W random, σ² the mean variance."""
    linear = decoder_layer(vae)
    x = x.flatten(1)
    linear.bias.copy_(x.mean(0))
    scale = x.var(0).mean().sqrt()
    linear.weight.copy_(scale * torch.randn_like(linear.weight) / math.sqrt(linear.in_features))
    _set_sigma(vae, scale)
    e_step(vae)


def step(vae: VAE, x: Tensor) -> None:
    """One iteration of EM (Tipping & Bishop 1999, eqs. 27 and 28)."""
    linear = decoder_layer(vae)
    W, centred = linear.weight, x.flatten(1) - linear.bias
    N, D = centred.shape
    gain, covariance = _posterior(W, _sigma(vae))
    mean = centred @ gain.mT  # E[z_n], [N, d]
    second = N * covariance + mean.mT @ mean  # Σ_n E[z_n z_nᵀ]
    W_new = torch.linalg.solve(second, mean.mT @ centred).mT
    square = centred.square().sum() - 2 * (mean * (centred @ W_new)).sum() + (second * (W_new.mT @ W_new)).sum()
    linear.weight.copy_(W_new)
    _set_sigma(vae, (square / (N * D)).sqrt())
    e_step(vae)


def e_step(vae: VAE) -> None:
    """The E-step: q(z | x) = N(M⁻¹ Wᵀ (x − b), σ² M⁻¹), M = Wᵀ W + σ² I (Tipping & Bishop 1999, eq. 25)."""
    linear, q = decoder_layer(vae), vae.posterior
    assert isinstance(q, FullCovariance)
    gain, covariance = _posterior(linear.weight, _sigma(vae))
    L, d = torch.linalg.cholesky(covariance), linear.in_features
    q.loc_log_scale.weight.zero_()
    q.loc_log_scale.weight[:d] = gain
    q.loc_log_scale.bias.copy_(torch.cat([-gain @ linear.bias, L.diagonal().log()]))
    if q.off_diagonal is not None:
        rows, columns = torch.tril_indices(d, d, offset=-1)
        q.off_diagonal.weight.zero_()
        q.off_diagonal.bias.copy_(L[rows, columns] / q.off_diagonal_gain)


def _posterior(W: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """M⁻¹ Wᵀ `[d, D]` and σ² M⁻¹ `[d, d]`."""
    M = W.mT @ W + sigma.square() * torch.eye(W.shape[1]).to(W)
    return torch.linalg.solve(M, W.mT), sigma.square() * torch.linalg.inv(M)


def _sigma(vae: VAE) -> Tensor:
    """σ of a Gaussian likelihood that has one."""
    sigma: Tensor = vae.p_x(decoder_layer(vae).weight.new_zeros(vae.latent_dim)).stddev.mean()
    return sigma


def _set_sigma(vae: VAE, sigma: Tensor) -> None:
    vae.likelihood.raw_scale.copy_(inverse_softplus(sigma - vae.likelihood.min_scale))
