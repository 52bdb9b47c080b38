"""The variational autoencoder as two Pyro programs, and what its users do with it."""

from pyro_vae.vae.layer import Layer
from pyro_vae.vae.vae import VAE

__all__ = ["VAE", "Layer"]
