"""The likelihood of counts whose variance exceeds their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.likelihoods.checks import are_counts
from pyro_vae.likelihoods.in_double import NegativeBinomialInDouble
from pyro_vae.likelihoods.poisson import MIN_RATE
from pyro_vae.likelihoods.softplus import softplus_start


class NegativeBinomial(nn.Module):
    """p(x | z) = Π_d NB(x_d; mean m_d = softplus(h_d), variance m_d + α_d m_d²), for overdispersed counts 0, 1, 2, ….

    The dispersion α_d is learned for each data dimension and does not depend on z; the Poisson is the limit α = 0.
    As in scVI: Lopez, Regier, Cole, Jordan & Yosef (2018), Deep generative modeling for single-cell transcriptomics,
    https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        data_shape: shape of one datapoint.
        init_dispersion: starting value of α.
        min_dispersion: its lower bound: next to 0 it is the Poisson.
    """

    discrete = True

    def __init__(self, data_shape: Sequence[int], init_dispersion: float = 0.5, min_dispersion: float = 0.001) -> None:
        super().__init__()
        start = softplus_start("dispersion", init_dispersion, min_dispersion)
        self.raw_dispersion = nn.Parameter(start.repeat(*data_shape))
        self.min_dispersion = min_dispersion
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([1, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Means before their softplus `[..., 1, *data_shape]` -> p(x | z), event_shape `data_shape`."""
        mean = MIN_RATE + F.softplus(h.squeeze(-1 - self.event_dim))
        alpha = self.min_dispersion + F.softplus(self.raw_dispersion)
        return NegativeBinomialInDouble(1 / alpha, logits=(mean * alpha).log()).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, else None.

        Raises:
            BadInput: if a value is no count.
        """
        return are_counts("negative_binomial", x)
