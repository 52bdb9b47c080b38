"""The VampPrior: a mixture of the guide's own posteriors."""

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
        **data: what else is known of the data; not needed.
    """

    def __init__(
        self, latent_dim: int, data_shape: Sequence[int] = (), num_pseudo_inputs: int = 100, **data: Any
    ) -> None:
        super().__init__()
        C = positive_int("num_pseudo_inputs", num_pseudo_inputs, MAX_WIDTH)
        self.pseudo_inputs = nn.Parameter(torch.rand(C, *data_shape))

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Start at datapoints drawn from x `[N, *data_shape]`."""
        self.pseudo_inputs.copy_(x[torch.randint(len(x), (len(self.pseudo_inputs),))])

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """p(z), batch_shape `[]`, event_shape `[latent_dim]`.

        Raises:
            Incompatible: if there is no `posterior` of an x alone, or it is a point.
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
