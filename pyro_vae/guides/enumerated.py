"""The exact posterior of a discrete latent."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.errors import Incompatible
from pyro_vae.guides.guide import Guide, LogJoint


class Enumerated(Guide):
    """q(z = e_k | x) = p(x, e_k) / Σ_j p(x, e_j), the E-step of EM: the ELBO is log p(x). It has no parameters.

    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm, JRSS B 39(1).

    Args:
        num_features: ignored.
        latent_dim: K, the number of categories, at each of which the model is evaluated.

    Raises:
        Incompatible: when called without `log_joint`.

    Example:
        >>> import torch
        >>> log_joint = lambda z: z[..., 1]  # log p(x, e_k) = k
        >>> Enumerated(8, 2)(torch.zeros(5, 8), log_joint).probs[0]
        tensor([0.2689, 0.7311])
    """

    needs_log_joint = True

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        if log_joint is None:
            raise Incompatible("guide=enumerated needs a single stochastic layer", "set latent_dim to a single number")
        K, batch_shape = self.latent_dim, h.shape[:-1]
        one_hot = torch.eye(K, dtype=h.dtype, device=h.device).reshape(K, *[1] * len(batch_shape), K)
        log_p = log_joint(one_hot.expand(K, *batch_shape, K))
        return dist.OneHotCategorical(logits=log_p.movedim(0, -1))
