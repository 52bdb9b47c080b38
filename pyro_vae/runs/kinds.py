"""What log p(x) of a VAE is. Values of different kinds cannot be compared, nor can their bounds."""

from __future__ import annotations

from pyro_vae.vae import VAE


def kind_of(vae: VAE) -> dict[str, bool]:
    """Return what the log p(x) of a VAE is, each by the name of a pair of kinds."""
    return {
        "log p(x | y) and log p(x)": vae.needs_labels,
        "log p(x_obs, mask) and log p(x_obs)": vae.missingness is not None,
        "probabilities and densities": vae.likelihood.discrete,
    }
