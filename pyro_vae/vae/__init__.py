"""The variational autoencoder as two Pyro programs, and the methods that its users call."""

from pyro_vae.vae.layer import Layer
from pyro_vae.vae.semi_supervised import SemiSupervisedVAE
from pyro_vae.vae.vae import VAE

__all__ = ["VAE", "Layer", "SemiSupervisedVAE"]
