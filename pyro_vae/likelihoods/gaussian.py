"""The likelihood of continuous data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import one_of, positive
from pyro_vae.likelihoods.checks import density_of
from pyro_vae.likelihoods.softplus import softplus_start


class Gaussian(nn.Module):
    """p(x | z) = N(x; μ(z), σ²), a density for continuous data.

    Args:
        data_shape: shape of one datapoint.
        scale: `fixed` (σ = `init_scale`), `learned` (one number) or `per_pixel` (σ(z) from the decoder).
        init_scale: σ, or its starting value.
        min_scale: lower bound of a learned σ: without one the density of constant pixels has no maximum.
    """

    discrete = False
    fixed_scale: Tensor
    raw_offset: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: str = "learned",
        init_scale: float = 0.1,
        min_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.kind = one_of("likelihood.scale", scale, ("fixed", "learned", "per_pixel"))
        init_scale = positive("likelihood.init_scale", init_scale)
        self.min_scale = positive("likelihood.min_scale", min_scale)
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([2 if scale == "per_pixel" else 1, *data_shape])
        if scale == "fixed":
            self.register_buffer("fixed_scale", torch.tensor(init_scale))
            return
        raw = softplus_start("scale", init_scale, min_scale)
        if scale == "learned":
            self.raw_scale = nn.Parameter(raw)
        else:
            self.register_buffer("raw_offset", raw)

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Parameters `[..., 1 or 2, *data_shape]` -> p(x | z), event_shape `data_shape`."""
        loc, *raw = h.unbind(-1 - self.event_dim)
        scale: Tensor
        if self.kind == "fixed":
            scale = self.fixed_scale
        elif self.kind == "learned":
            scale = self.min_scale + F.softplus(self.raw_scale)
        else:
            scale = self.min_scale + F.softplus(raw[0] + self.raw_offset)
        return dist.Normal(loc, scale).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, so that a density says little about it, else None."""
        return density_of("gaussian", x)
