"""The likelihood of continuous data with outliers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput, positive
from pyro_vae.likelihoods.checks import density_of
from pyro_vae.likelihoods.in_double import StudentTInDouble
from pyro_vae.likelihoods.softplus import softplus_start


class StudentT(nn.Module):
    """p(x | z) = Π_d t_ν(x_d; μ_d(z), σ) with one learned σ, a density for continuous data with outliers.

    Lange, Little & Taylor (1989), Robust statistical modeling using the t distribution,
    https://doi.org/10.2307/2290063.

    Args:
        data_shape: shape of one datapoint.
        df: degrees of freedom ν, above 2, so that there is a variance, σ² ν / (ν − 2), up to 1e8, a Gaussian.
        init_scale: starting value of σ.
        min_scale: lower bound of σ: without one the density of constant dimensions has no maximum.
    """

    discrete = False

    def __init__(
        self, data_shape: Sequence[int], df: float = 5.0, init_scale: float = 0.1, min_scale: float = 0.01
    ) -> None:
        super().__init__()
        self.df = positive("likelihood.df", df)
        if self.df <= 2:
            raise BadInput(f"likelihood.df={df} must exceed 2, so that there is a variance")
        if self.df > 1e8:  # log Γ(ν/2) runs out of digits
            raise BadInput(f"likelihood.df={df} exceeds 1e8 and makes a Gaussian: take likelihood=gaussian")
        self.raw_scale = nn.Parameter(softplus_start("scale", init_scale, min_scale))
        self.min_scale = min_scale
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([1, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Locations `[..., 1, *data_shape]` -> p(x | z), event_shape `data_shape`."""
        scale = self.min_scale + F.softplus(self.raw_scale)
        return StudentTInDouble(self.df, h.squeeze(-1 - self.event_dim), scale).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, so that a density says little about it, else None."""
        return density_of("student_t", x)
