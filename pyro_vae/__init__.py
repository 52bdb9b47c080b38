"""Variational autoencoders as probabilistic programs in Pyro, with an honest log p(x).

Example:
    >>> import torch, pyro_vae
    >>> x = torch.bernoulli(torch.full((200, 12), 0.3))
    >>> vae = pyro_vae.fit(x, likelihood="bernoulli", latent_dim=2, max_epochs=2)
    >>> vae.encode(x).shape, vae.sample(5).shape, vae.log_prob(x[:3]).shape
    (torch.Size([200, 2]), torch.Size([5, 12]), torch.Size([3]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_vae.runs.renamed import keep_old_names
from pyro_vae.training.interrupt import deferred_interrupt

if TYPE_CHECKING:
    from pyro_vae.api import fit as fit
    from pyro_vae.api import load as load
    from pyro_vae.errors import BadInput as BadInput
    from pyro_vae.errors import FailedRun as FailedRun
    from pyro_vae.sklearn import VariationalAutoencoder as VariationalAutoencoder
    from pyro_vae.vae import VAE as VAE

keep_old_names()

__version__ = "0.2.0"
__all__ = ["VAE", "BadInput", "FailedRun", "VariationalAutoencoder", "fit", "load"]

_HOME = {
    "fit": "api",
    "load": "api",
    "VAE": "vae",
    "VariationalAutoencoder": "sklearn",
    "BadInput": "errors",
    "FailedRun": "errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): `python -m pyro_vae.train --help` must not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with deferred_interrupt(insist=True):  # an import that is cut off leaves torch or Pyro half imported
        module = import_module(f"{__name__}.{_HOME[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
