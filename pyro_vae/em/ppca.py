"""EM of probabilistic PCA, x = W z + b + σ ε: Tipping & Bishop (1999), JRSS B 61(3), appendix B."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.em.linear import decoder_layer, likelihood_of
from pyro_vae.guides import FullCovariance
from pyro_vae.networks.standardize import Standardize
from pyro_vae.vae import VAE


def start(vae: VAE, x: Tensor) -> None:
    """Set b to the mean of x `[N, *data_shape]`, its final value, W to noise, and σ² to the mean variance."""
    linear = decoder_layer(vae)
    x = x.flatten(1)
    scale = x.var(0).mean().sqrt()
    W = scale * torch.randn_like(linear.weight) / math.sqrt(linear.in_features)
    _set_model(vae, W, x.mean(0), scale)
    e_step(vae)


def step(vae: VAE, x: Tensor) -> None:
    """Perform one iteration of EM (Tipping & Bishop 1999, eqs. 27 and 28)."""
    W, b, sigma = _model(vae)
    centred = x.flatten(1) - b
    N, D = centred.shape
    gain, covariance = _posterior(W, sigma)
    mean = centred @ gain.mT  # E[z_n], [N, d]
    second = N * covariance + mean.mT @ mean  # Σ_n E[z_n z_nᵀ]
    W_new = torch.linalg.solve(second, mean.mT @ centred).mT
    square = centred.square().sum() - 2 * (mean * (centred @ W_new)).sum() + (second * (W_new.mT @ W_new)).sum()
    _set_model(vae, W_new, b, (square / (N * D)).sqrt())
    e_step(vae)


def e_step(vae: VAE) -> None:
    """Set q(z | x) = N(M⁻¹ Wᵀ (x − b), σ² M⁻¹), M = Wᵀ W + σ² I (Tipping & Bishop 1999, eq. 25), the E-step."""
    q = vae.posterior
    assert isinstance(q, FullCovariance)
    W, b, sigma = _model(vae)
    gain, covariance = _posterior(W, sigma)
    L, d = torch.linalg.cholesky(covariance), W.shape[1]
    assert isinstance(vae.standardize, Standardize)  # which the guide applies to x
    location, scale = vae.standardize.location.flatten(), vae.standardize.scale.flatten()
    q.loc_log_scale.weight.zero_()
    q.loc_log_scale.weight[:d] = gain * scale
    q.loc_log_scale.bias.copy_(torch.cat([gain @ (location - b), L.diagonal().log()]))
    if q.off_diagonal is not None:
        rows, columns = torch.tril_indices(d, d, offset=-1)
        q.off_diagonal.weight.zero_()
        q.off_diagonal.bias.copy_(L[rows, columns] / q.off_diagonal_gain)


def _posterior(W: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return M⁻¹ Wᵀ `[d, D]` and σ² M⁻¹ `[d, d]`."""
    M = W.mT @ W + sigma.square() * torch.eye(W.shape[1]).to(W)
    return torch.linalg.solve(M, W.mT), sigma.square() * torch.linalg.inv(M)


def _model(vae: VAE) -> tuple[Tensor, Tensor, Tensor]:
    """Return W `[D, d]`, b `[D]` and σ, in the units of the data."""
    linear, likelihood = decoder_layer(vae), likelihood_of(vae)
    p_x = vae.p_x(linear.weight.new_zeros(vae.latent_dim))
    return likelihood.unit * linear.weight, p_x.mean.flatten(), p_x.stddev.mean()


def _set_model(vae: VAE, W: Tensor, b: Tensor, sigma: Tensor) -> None:
    linear, likelihood = decoder_layer(vae), likelihood_of(vae)
    linear.weight.copy_(W / likelihood.unit)
    linear.bias.copy_(likelihood.inverse(b.reshape(vae.data_shape), sigma).flatten())
    likelihood.set_scale(sigma)
