"""Network architectures, one a file: each builds the encoder and the decoder of a VAE.

`Network` is their contract; derive your own from it.
"""

from pyro_vae.networks.conv import Conv
from pyro_vae.networks.conv1d import Conv1d
from pyro_vae.networks.mlp import MLP
from pyro_vae.networks.network import Network

__all__ = ["MLP", "Conv", "Conv1d", "Network"]
