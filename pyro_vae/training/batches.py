"""Checks of the sizes of batches."""

from __future__ import annotations

from torch import nn

from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput
from pyro_vae.parallel import collectives
from pyro_vae.vae import VAE


def require_batches(vae: VAE, data: Dataset, batch_size: int) -> None:
    """Check that batches and validation set suffice for all processes, and batches for batch normalization.

    Raises:
        BadInput: if they do not.
    """
    N = len(data.train)
    for name, size in {"batch": min(batch_size, N), "validation set": len(data.val)}.items():
        if 0 < size < collectives.world_size():
            raise BadInput(f"a {name} of {size} leaves some of {collectives.world_size()} processes no datapoint")
    last = N % batch_size or min(batch_size, N)
    each = last // collectives.world_size()
    if each == 1 and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in vae.modules()):
        raise BadInput(
            f"batch_size={batch_size} leaves a last batch of {last} of {N} training rows, too small for batch "
            "normalization: choose another"
        )
