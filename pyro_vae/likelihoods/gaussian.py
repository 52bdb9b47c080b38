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

    μ and σ are measured relative to the data's mean and standard deviation, so that a·x + b is learned as well as x.
    `per_pixel` uses the standard deviation of each dimension, `fixed` and `learned` that of all data, the root of the
    mean variance.

    Args:
        data_shape: shape of one datapoint.
        scale: `fixed` (σ = `init_scale`), `learned` (one number) or `per_pixel` (σ(z) from the decoder).
        init_scale: σ, or its starting value; None: the data's standard deviation for a fixed σ, a quarter of it for a
            learned one, since z ignores directions in which the data vary less than σ (Lucas et al. 2019, Don't blame
            the ELBO!, https://arxiv.org/abs/1911.02469). Without data their standard deviation is 1.
        min_scale: lower bound of a learned σ, without which the density of constant pixels has no maximum; None: a
            hundredth of `init_scale` or of the data's standard deviation.
        standardize: measure each dimension in its own standard deviation, of which σ, `init_scale` and `min_scale` are
            multiples; x stays in the data's units. None: the run sets it, by `data.standardize`.

    Example:
        >>> import torch
        >>> p = Gaussian([6], scale="per_pixel")(torch.zeros(5, 2, 6))
        >>> p.mean.shape, p.stddev.shape
        (torch.Size([5, 6]), torch.Size([5, 6]))
    """

    name = "gaussian"
    remedy = f"{Scaled.remedy}, or set likelihood.scale=per_pixel"
    fixed_scale: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: str = "learned",
        init_scale: float | None = None,
        min_scale: float | None = None,
        standardize: bool | None = None,
    ) -> None:
        self.kind = one_of("scale", scale, ("fixed", "learned", "per_pixel"))
        fixed = scale == "fixed"
        share = 1.0 if fixed else SHARE
        start = Start("scale", init_scale, min_scale, bounded=not fixed, share=share, relative=standardize is True)
        per_pixel = scale == "per_pixel"
        super().__init__(data_shape, 2 if per_pixel else 1, data_shape if per_pixel else (), start, standardize)
        if scale == "learned":
            self.add_learned_scale()

    def buffers_for(self, loc: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """Return the buffers of `Scaled`, and a fixed σ."""
        fixed = {"fixed_scale": self.start.value(unit)} if self.kind == "fixed" else {}
        return {**super().buffers_for(loc, unit), **fixed}

    def initialize_from(self, x: Tensor) -> None:
        """Start μ at the mean of x `[N, *data_shape]`, and measure σ in its standard deviation."""
        data = moments(x)
        self.start_at(data.mean, data.whole if self.has_one_scale else data.unit)

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for locations and, if they are per pixel, scales before their softplus."""
        loc, *raw = u.unbind(-1 - self.event_dim)
        scale = self.low + self.unit * F.softplus(raw[0]) if self.kind == "per_pixel" else self.scale
        return dist.Normal(self.unit * loc, scale).to_event(self.event_dim)

    def inverse(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the h `[..., *param_shape]` at which p(x | z) has this mean, and this σ if it is per pixel."""
        u = [loc / self.unit, *([inverse_softplus((scale - self.low) / self.unit)] if self.kind == "per_pixel" else [])]
        return torch.stack(u, -1 - self.event_dim) - self.offset

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return normal distributions with each dimension's mean and the standard deviation of `own_scales`."""
        data = moments(x)
        return dist.Normal(data.mean, self.own_scales(data.sd, data.unit)).to_event(self.event_dim)

    def own_scales(self, scale: Tensor, unit: Tensor) -> Tensor:
        """Return the scales of independent marginals: see `Scaled`. If σ is per pixel, they share its lower bound."""
        if self.kind == "per_pixel":
            return scale.maximum(self.start.bound(unit))
        return super().own_scales(scale, unit)

    @property
    def scale(self) -> Tensor:
        """The scale that all dimensions share, unless σ is per pixel: see `Scaled`."""
        return self.fixed_scale if self.kind == "fixed" else super().scale

    @property
    def has_one_scale(self) -> bool:
        """Whether all dimensions share a scale: unless it is per pixel, or with `standardize`."""
        return self.kind != "per_pixel" and super().has_one_scale
