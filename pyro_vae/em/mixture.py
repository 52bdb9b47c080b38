"""EM of a mixture of axis-aligned Gaussians, z = e_k, x ~ N(μ_k, diag σ_k²): Bishop (2006), PRML, §9.2."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.em.linear import decoder_layer, likelihood_of
from pyro_vae.errors import BadInput
from pyro_vae.priors import Categorical
from pyro_vae.programs.chunks import slices
from pyro_vae.vae import VAE


def require_enough(vae: VAE, num_data: int) -> None:
    """Reject a training set with fewer datapoints than components.

    Raises:
        BadInput: if it has fewer, since components start at different datapoints.
    """
    if num_data < vae.latent_dim[0]:
        raise BadInput(
            f"latent_dim={vae.latent_dim[0]} exceeds the number of training datapoints, {num_data}: use a "
            "smaller latent_dim, or more data"
        )


def start(vae: VAE, x: Tensor) -> None:
    """Set means to datapoints drawn from x `[N, *data_shape]`, σ to that of all data, and weights to 1/K."""
    x = x.flatten(1)
    means = x[torch.randperm(len(x))[: vae.latent_dim[0]]]
    _set_mixture(vae, torch.full_like(means[:, 0], 1 / len(means)), means, x.std(0).expand_as(means))


def step(vae: VAE, x: Tensor) -> None:
    """Perform one iteration of EM (Bishop 2006, eqs. 9.24 to 9.26): responsibilities, then weighted moments."""
    n = first = second = torch.zeros(()).to(x)
    for (part,) in slices(500, x):
        r = vae.q_z(part).probs  # the E-step, [N, K]
        flat = part.flatten(1)
        n, first, second = n + r.sum(0), first + r.mT @ flat, second + r.mT @ flat.square()
    counts = n.clamp_min(1e-12).unsqueeze(-1)
    means = first / counts
    variance = (second / counts - means.square()).clamp_min(0)
    _set_mixture(vae, n / len(x), means, variance.sqrt())


def _set_mixture(vae: VAE, weights: Tensor, means: Tensor, scales: Tensor) -> None:
    linear, prior = decoder_layer(vae), vae.prior
    assert isinstance(prior, Categorical)
    prior.logits.copy_(weights.clamp_min(1e-300).log())
    h = likelihood_of(vae).inverse(*(moment.reshape(-1, *vae.data_shape) for moment in (means, scales)))
    linear.weight.copy_(h.flatten(1).mT)
    linear.bias.zero_()
