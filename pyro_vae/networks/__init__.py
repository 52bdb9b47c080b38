"""Network architectures: each builds the encoder and the decoder of a VAE.

encoder(data_shape, context_dim)               x `[..., *data_shape]` -> features `[..., num_features]`
decoder(latent_dim, param_shape, context_dim)  z `[..., latent_dim]` -> h `[..., *param_shape]`

With a `context_dim` they take a context c `[N, context_dim]` as well, a one-hot label say.
"""

from pyro_vae.networks.conv import Conv
from pyro_vae.networks.mlp import MLP

__all__ = ["MLP", "Conv"]
