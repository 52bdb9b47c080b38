"""The likelihood of continuous data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import one_of
from pyro_vae.likelihoods.checks import density_of
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.softplus import Start, inverse_softplus


class Gaussian(Likelihood):
    """p(x | z) = N(x; μ(z), σ²), a density for continuous data.

    μ and σ are measured in the data's standard deviation from the data's mean, so that a·x + b is learned as well as x.
    `per_pixel` takes the standard deviation of each dimension, `fixed` and `learned` that of all data, the root of
    the mean variance.

    Args:
        data_shape: shape of one datapoint.
        scale: `fixed` (σ = `init_scale`), `learned` (one number) or `per_pixel` (σ(z) from the decoder).
        init_scale: σ, or its starting value; None: the data's standard deviation, without data 1.
        min_scale: lower bound of a learned σ, without which the density of constant pixels has no maximum; None: a
            hundredth of the starting value.
    """

    discrete = False
    unbounded = True
    fixed_scale: Tensor
    unit: Tensor
    low: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: str = "learned",
        init_scale: float | None = None,
        min_scale: float | None = None,
    ) -> None:
        self.kind = one_of("likelihood.scale", scale, ("fixed", "learned", "per_pixel"))
        self.start = Start("scale", init_scale, None if scale == "fixed" else min_scale)
        super().__init__(data_shape, 2 if scale == "per_pixel" else 1)
        if scale == "learned":
            self.raw_scale = nn.Parameter(self.start.raw(torch.ones(()), torch.ones(())))
        self.register_start()

    def start_without_data(self) -> dict[str, Tensor]:
        """Mean 0 and standard deviation 1 for the data's."""
        D = self.param_shape[1:]
        return self._start(torch.zeros(D), torch.ones(D if self.kind == "per_pixel" else ()))

    def _start(self, mean: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """The buffers for data of that mean `[*data_shape]`, and standard deviation `[]` or `[*data_shape]`."""
        buffers = {"offset": (mean / unit).unsqueeze(0), "unit": unit, "low": self.start.bound(unit)}
        if self.kind == "fixed":
            buffers["fixed_scale"] = self.start.value(unit)
        elif self.kind == "per_pixel":
            buffers["offset"] = torch.stack([mean / unit, self.start.raw(unit, unit)])
        return buffers

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """μ at the mean and σ at the standard deviation of x `[N, *data_shape]`."""
        data = moments(x)
        unit = data.unit if self.kind == "per_pixel" else data.whole
        for name, value in self._start(data.mean, unit).items():
            self.get_buffer(name).copy_(value)
        if self.kind == "learned":
            self.raw_scale.copy_(self.start.raw(unit, unit))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Locations, and scales before their softplus if they are per pixel: p(x | z)."""
        loc, *raw = u.unbind(-1 - self.event_dim)
        scale: Tensor
        if self.kind == "fixed":
            scale = self.fixed_scale
        else:
            scale = self.low + self.unit * F.softplus(raw[0] if raw else self.raw_scale)
        return dist.Normal(self.unit * loc, scale).to_event(self.event_dim)

    def inverse(self, loc: Tensor, scale: Tensor) -> Tensor:
        """The h `[..., *param_shape]` at which p(x | z) has that mean, and that σ if it is per pixel."""
        u = [loc / self.unit, *([inverse_softplus((scale - self.low) / self.unit)] if self.kind == "per_pixel" else [])]
        return torch.stack(u, -1 - self.event_dim) - self.offset

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """The normal distribution of each dimension's mean and standard deviation, bounded as σ is."""
        data = moments(x)
        return dist.Normal(data.mean, data.sd.maximum(self.start.bound(data.unit))).to_event(self.event_dim)

    def location_and_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the scale of each dimension."""
        data = moments(x)
        return data.mean, data.unit

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is binary, so that a density says little about it, else None."""
        return density_of("gaussian", x)
