"""Expectation maximization of a Student-t mixture, given draws of each datapoint's posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.marginal.mixture import Mixture


def fit_mixture(q: Mixture, u: Tensor, num_iterations: int = 5, shrinkage: float = 1.0) -> Mixture:
    """Fit a mixture to draws, starting from q.

    EM for Student-t mixtures: Peel & McLachlan (2000), Robust mixture modelling using the t distribution, Statistics
    and Computing 10. The covariances are shrunk towards those of q as if `shrinkage` · D more draws had come from it,
    since few draws of many dimensions would give narrow components.

    Args:
        q: the start.
        u: draws `[K, N, D]`.
        num_iterations: number of EM iterations.
        shrinkage: draws per dimension that q counts for.
    """
    D, prior = u.shape[-1], shrinkage * u.shape[-1]
    eye = torch.eye(D, dtype=u.dtype, device=u.device)
    for _ in range(num_iterations):
        responsibility = q.component_log_probs(u).softmax(0)  # [M, K, N]
        mass = responsibility.sum(1)  # [M, N]
        locs, factors = [], []
        for m, r in enumerate(responsibility):
            white = q.whiten(u, m)
            heavy = r * _precision(white, q.df)
            mean = torch.einsum("kn,knd->nd", heavy, white) / (heavy.sum(0) + 1).unsqueeze(-1)
            away = white - mean
            scatter = torch.einsum("kn,knd,kne->nde", heavy, away, away)
            covariance = (scatter + prior * eye) / (mass[m] + prior)[:, None, None]
            locs.append(q.loc[m] + (q.scale_tril[m] @ mean.unsqueeze(-1)).squeeze(-1))
            factors.append(q.scale_tril[m] @ torch.linalg.cholesky(covariance))
        exists = q.log_weights.isfinite()
        log_weights = torch.where(exists, (mass + 0.01 * len(u)).log(), -torch.inf).log_softmax(0)
        q = Mixture(log_weights, torch.stack(locs), torch.stack(factors), q.df)
    return q


def reweight(q: Mixture, u: Tensor, log_w: Tensor, num_iterations: int = 5) -> Mixture:
    """Fit only the components' shares, given draws `[K, N, D]` with importance weights `[K, N]`."""
    log_w = log_w.nan_to_num(nan=-torch.inf)  # a NaN makes the estimate unreliable, but not the proposal
    weights = log_w.softmax(0).nan_to_num(nan=1 / len(log_w)).to(u.dtype)
    densities = q.component_log_probs(u) - q.log_weights.unsqueeze(1)
    densities = torch.where(q.log_weights.isfinite().unsqueeze(1), densities.nan_to_num(0.0), -torch.inf)
    log_weights = q.log_weights
    for _ in range(num_iterations):
        mass = ((densities + log_weights.unsqueeze(1)).softmax(0) * weights).sum(1)
        log_weights = torch.where(log_weights.isfinite(), (mass + 0.01).log(), -torch.inf).log_softmax(0)
    return Mixture(log_weights, q.loc, q.scale_tril, q.df)


def _precision(white: Tensor, df: Tensor) -> Tensor:
    """Return the expected precision of each draw, given its distance: (df + D) / (df + ‖L⁻¹ (u − loc)‖²), `[K, N]`."""
    square = white.square().sum(-1)
    return torch.where(df.isfinite(), (df + white.shape[-1]) / (df + square), 1.0)
