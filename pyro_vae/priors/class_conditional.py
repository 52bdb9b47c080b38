"""A prior with a mean for each class."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput, positive
from pyro_vae.priors.prior import Posterior, Prior


class ClassConditional(Prior):
    """p(z | y) = N(z; μ_y, I) with learned μ_y: choosing μ_y chooses the class.

    The conditional prior of Sohn, Lee & Yan (2015), Learning structured output representation using deep conditional
    generative models, with a free mean for each class and unit covariance.

    Args:
        latent_dim: D.
        num_classes: of y.
        radius: distance of the means from 0 at the start, in random directions: classes should hardly overlap.
        **data: what else is known of the data; not needed.

    Raises:
        BadInput: if the data have no labels, or radius is not above 0.
    """

    conditional = True

    def __init__(self, latent_dim: int, num_classes: int | None = None, radius: float = 6.0, **data: Any) -> None:
        super().__init__()
        positive("radius", radius)
        if num_classes is None:
            raise BadInput(
                "prior=class_conditional needs labels, which these data do not have: name them (data.label_key for an "
                "array), or take another prior"
            )
        self.loc = nn.Parameter(radius * nn.functional.normalize(torch.randn(num_classes, latent_dim), dim=-1))

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """p(z | y) for labels y `[N]`: batch_shape `[N]`, event_shape `[latent_dim]`.

        Raises:
            BadInput: if there is no y.
        """
        if y is None:
            raise BadInput(f"this VAE is conditional: give y, labels from 0 to {len(self.loc) - 1}")
        loc = self.loc[y]
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)
