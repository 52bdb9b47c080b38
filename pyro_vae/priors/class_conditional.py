"""A prior with a mean for each class, or a mean that depends linearly on covariates."""

from __future__ import annotations

from collections.abc import Sequence
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
    generative models, with a free mean for each class and unit covariance. Of covariates the mean is a sum: a learned
    vector for the category in each column, and one times the standardized value of each continuous column.

    Args:
        latent_dim: D.
        num_classes: of y.
        radius: initial distance of the means from 0, in random directions; it should keep the classes apart. The
            vectors of continuous columns start at 0.
        num_categories: of each covariate, 0 for a continuous one, if y are covariates.
        **data: ignored.

    Raises:
        BadInput: if the data have no labels and no covariates, or radius is not positive.

    Example:
        >>> import torch
        >>> ClassConditional(2, num_classes=10)(torch.tensor([3, 7])).batch_shape
        torch.Size([2])
    """

    conditional = True

    def __init__(
        self,
        latent_dim: int,
        num_classes: int | None = None,
        radius: float = 6.0,
        num_categories: Sequence[int] = (),
        **data: Any,
    ) -> None:
        super().__init__()
        positive("radius", radius)
        if num_classes is None and not num_categories:
            raise BadInput(
                "prior=class_conditional needs labels, which these data do not have: name them (data.label_key for an "
                "array, data.y for a table), or use another prior"
            )
        total = sum(num_categories) if num_categories else num_classes
        loc = radius * nn.functional.normalize(torch.randn(total or 0, latent_dim), dim=-1)
        continuous = torch.zeros(sum(n == 0 for n in num_categories), latent_dim)
        self.loc = nn.Parameter(torch.cat([continuous, loc]))

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z | y), with batch_shape `[N]` and event_shape `[latent_dim]`.

        Args:
            y: labels `[N]`, or encoded covariates `[N, width]`.
            posterior: ignored.

        Raises:
            BadInput: if y is None.
        """
        if y is None:
            raise BadInput(f"this VAE is conditional: give y, labels from 0 to {len(self.loc) - 1}")
        loc = y @ self.loc if y.is_floating_point() else self.loc[y]
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)
