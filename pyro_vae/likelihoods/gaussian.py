"""The likelihood of continuous data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.errors import one_of
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.scaled import SHARE, Scaled
from pyro_vae.likelihoods.softplus import Start, inverse_softplus


class Gaussian(Scaled):
    """p(x | z) = N(x; μ(z), σ²), a density for continuous data.

    μ and σ are measured in the data's standard deviation from the data's mean, so that a·x + b is learned as well as x.
    `per_pixel` takes the standard deviation of each dimension, `fixed` and `learned` that of all data, the root of
    the mean variance.

    Args:
        data_shape: shape of one datapoint.
        scale: `fixed` (σ = `init_scale`), `learned` (one number) or `per_pixel` (σ(z) from the decoder).
        init_scale: σ, or its starting value; None: the data's standard deviation for a fixed σ, a quarter of it for a
            learned one, since z ignores directions in which the data vary less than σ (Lucas et al. 2019, Don't blame
            the ELBO!, https://arxiv.org/abs/1911.02469). Without data their standard deviation is 1.
        min_scale: lower bound of a learned σ, without which the density of constant pixels has no maximum; None: a
            hundredth of `init_scale` or of the data's standard deviation.
    """

    name = "gaussian"
    remedy = f"{Scaled.remedy}, or take likelihood.scale=per_pixel"
    fixed_scale: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: str = "learned",
        init_scale: float | None = None,
        min_scale: float | None = None,
    ) -> None:
        self.kind = one_of("scale", scale, ("fixed", "learned", "per_pixel"))
        fixed = scale == "fixed"
        start = Start("scale", init_scale, min_scale, bounded=not fixed, share=1.0 if fixed else SHARE)
        per_pixel = scale == "per_pixel"
        super().__init__(data_shape, 2 if per_pixel else 1, data_shape if per_pixel else (), start)
        if scale == "learned":
            self.add_learned_scale()

    def buffers_for(self, loc: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """As `Scaled` has them, and a fixed σ."""
        fixed = {"fixed_scale": self.start.value(unit)} if self.kind == "fixed" else {}
        return {**super().buffers_for(loc, unit), **fixed}

    def initialize_from(self, x: Tensor) -> None:
        """μ at the mean of x `[N, *data_shape]`, σ in units of its standard deviation."""
        data = moments(x)
        self.start_at(data.mean, data.unit if self.kind == "per_pixel" else data.whole)

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Locations, and scales before their softplus if they are per pixel -> p(x | z)."""
        loc, *raw = u.unbind(-1 - self.event_dim)
        scale = self.low + self.unit * F.softplus(raw[0]) if self.kind == "per_pixel" else self.scale
        return dist.Normal(self.unit * loc, scale).to_event(self.event_dim)

    def inverse(self, loc: Tensor, scale: Tensor) -> Tensor:
        """The h `[..., *param_shape]` at which p(x | z) has that mean, and that σ if it is per pixel."""
        u = [loc / self.unit, *([inverse_softplus((scale - self.low) / self.unit)] if self.kind == "per_pixel" else [])]
        return torch.stack(u, -1 - self.event_dim) - self.offset

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Normal distributions with each dimension's mean and standard deviation, whatever the option of σ is.

        If σ is per pixel, its lower bound is theirs; otherwise see `own_scales`.
        """
        data = moments(x)
        per_pixel = self.kind == "per_pixel"
        scale = data.sd.maximum(self.start.bound(data.unit)) if per_pixel else self.own_scales(data.sd, data.unit)
        return dist.Normal(data.mean, scale).to_event(self.event_dim)

    @property
    def scale(self) -> Tensor:
        """The scale that all dimensions share, `[]`, unless σ is per pixel."""
        return self.fixed_scale if self.kind == "fixed" else super().scale

    @property
    def has_one_scale(self) -> bool:
        """Unless it is per pixel."""
        return self.kind != "per_pixel"
