"""The VampPrior: a mixture of the guide's posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import MAX_WIDTH, Incompatible, positive_int
from pyro_vae.priors.prior import Posterior, Prior


class Vamp(Prior):
    """p(z) = (1/C) Σ_c q(z | u_c) with learned pseudo-inputs u_c, which start at training datapoints.

    Tomczak & Welling (2018), VAE with a VampPrior, https://arxiv.org/abs/1705.07120, eq. 9.

    Args:
        latent_dim: D.
        data_shape: shape of one datapoint.
        num_pseudo_inputs: C.
        **data: ignored.

    Example:
        >>> import torch
        >>> from pyro.distributions import Normal
        >>> prior = Vamp(2, data_shape=[6], num_pseudo_inputs=5)
        >>> prior(posterior=lambda x: Normal(x[:, :2], 1.0).to_event(1)).sample().shape
        torch.Size([2])
    """

    def __init__(
        self, latent_dim: int, data_shape: Sequence[int] = (), num_pseudo_inputs: int = 100, **data: Any
    ) -> None:
        super().__init__()
        C = positive_int("num_pseudo_inputs", num_pseudo_inputs, MAX_WIDTH)
        self.pseudo_inputs = nn.Parameter(torch.rand(C, *data_shape))

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the pseudo-inputs to random datapoints of x `[N, *data_shape]`."""
        self.pseudo_inputs.copy_(x[torch.randint(len(x), (len(self.pseudo_inputs),))])

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z), with batch_shape `[]` and event_shape `[latent_dim]`.

        Raises:
            Incompatible: if the posterior depends on more than x, or is a point.
        """
        components = None if posterior is None else posterior(self.pseudo_inputs)
        if components is None or isinstance(components, dist.Delta):
            raise Incompatible(
                "prior=vamp needs a guide of x alone that has a density, of one stochastic layer and without labels in "
                "the encoder",
                "use guide=diagonal, a single latent_dim and conditioning=none, or prior=mixture",
            )
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs))), components
        )
