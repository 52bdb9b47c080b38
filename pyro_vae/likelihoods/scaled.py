"""Densities of continuous data, in the data's own units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import true_false
from pyro_vae.likelihoods.checks import density_of
from pyro_vae.likelihoods.full_gaussian import FullGaussian, full_gaussian
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments, root_mean_square
from pyro_vae.likelihoods.softplus import Start, inverse_softplus

GAIN = 5.0
"""Factor by which a learned scale moves faster: one number for all data can, and learns slowly without."""

SHARE = 0.25
"""A learned scale starts at this share of the data's scale."""


class Scaled(Likelihood):
    """Locations unit · (h + offset), scales low + unit · softplus(u): a·x + b is learned as well as x.

    With `standardize` each dimension has its own unit, its scale in the training data, and one learned or fixed σ
    counts these units: σ_d = unit_d · σ. This is the model of standardized data u, x = mean + unit · u, with log p(x) =
    log p(u) − Σ log unit_d, in the units of x.

    Args:
        data_shape: shape of one datapoint.
        num_params: 1, or 2 if the decoder returns the scales.
        unit_shape: `[]` for one unit, or one for each dimension.
        start: start of the scale.
        standardize: whether each dimension is measured in its own unit; None: it is not.
    """

    discrete = False
    unbounded = True
    name: ClassVar[str]
    remedy: ClassVar[str] = "divide each by its own standard deviation, as data.standardize=true does"
    """Advice for dimensions of very different scales."""
    unit: Tensor
    """The data's scale."""
    low: Tensor
    """Lower bound of a learned scale."""
    gain: Tensor
    """Factor of `raw_scale`: the larger, the faster a learned scale moves."""
    raw_scale: nn.Parameter | None
    """The learned scale before its softplus, if one scale is learned."""

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        unit_shape: Sequence[int],
        start: Start,
        standardize: bool | None = None,
    ) -> None:
        super().__init__(data_shape, num_params)
        self.standardize = standardize is not None and true_false("standardize", standardize)
        self.unit_shape, self.start = torch.Size(data_shape if self.standardize else unit_shape), start
        self.register_start()
        self.register_parameter("raw_scale", None)

    def add_learned_scale(self) -> None:
        """Make one scale for all dimensions a parameter."""
        one = torch.ones(())
        self.raw_scale = nn.Parameter(self.start.raw(one, one))

    def start_without_data(self) -> dict[str, Tensor]:
        """Return the buffers for data of location 0 and scale 1."""
        return {
            **self.buffers_for(torch.zeros(self.param_shape[1:]), torch.ones(self.unit_shape)),
            "gain": torch.ones(()),
        }

    def buffers_for(self, loc: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """Return the buffers for data of this location `[*data_shape]` and scale `[*unit_shape]`."""
        offset = [loc / unit, self.start.raw(unit, unit).expand_as(loc)][: self.param_shape[0]]
        return {"offset": torch.stack(offset), "unit": unit, "low": self.start.bound(unit)}

    @torch.no_grad()
    def start_at(self, loc: Tensor, unit: Tensor) -> None:
        """Start from data of this location `[*data_shape]` and scale `[*unit_shape]`."""
        for name, value in self.buffers_for(loc, unit).items():
            self.get_buffer(name).copy_(value)
        self.gain.fill_(GAIN)
        if self.raw_scale is not None:
            self.set_scale(self.start.value(unit))

    @property
    def scale(self) -> Tensor:
        """The scale that all dimensions share, `[]`; with `standardize` that of each, `[*data_shape]`."""
        if self.raw_scale is None:
            raise AttributeError("each dimension of each datapoint has its scale: it comes from the decoder")
        return self.low + self.unit * F.softplus(self.gain * self.raw_scale)

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Set the learned scale, or its lower bound if `scale` is below that."""
        assert self.raw_scale is not None
        raw = inverse_softplus((scale - self.low.to(scale)) / self.unit) / self.gain
        self.raw_scale.copy_(raw.mean())  # with several units they differ by rounding

    @property
    def has_one_scale(self) -> bool:
        """Whether all dimensions share a scale."""
        return not self.standardize

    def warning_of_scales(self, x: Tensor) -> str | None:
        """Return a warning if dimensions of x `[N, *data_shape]` with very different scales share one, else None."""
        if not self.has_one_scale or not (data := moments(x)).unlike:
            return None
        return (
            f"likelihood={self.name} with one scale on columns of very different standard deviations, {data.whole:.3g} "
            f"overall but a median of {data.sd[data.sd > 0].median():.3g}: columns that vary little are hardly "
            f"learned; {self.remedy}"
        )

    def remedy_of_scales(self, marginals: TorchDistributionMixin, deficit: float) -> str | None:
        """Return advice if one scale for all dimensions explains at least a tenth of a deficit, else None.

        It explains Σ_d log(σ / σ_d) over the dimensions whose marginal has a scale σ_d below the model's σ.
        """
        if not self.has_one_scale:
            return None
        scale = cast(Any, marginals).base_dist.scale
        gain = (root_mean_square(scale).minimum(self.scale) / scale).log().clamp(min=0).sum()
        if gain < deficit / 10:
            return None
        return f"its dimensions share one scale: {self.remedy}; if they vary alike, train longer (trainer.max_epochs)"

    @torch.no_grad()
    def own_scales(self, scale: Tensor, unit: Tensor) -> Tensor:
        """Return the scales `[*data_shape]` of independent marginals, for a model whose dimensions share one.

        Each dimension has its own scale, so that a model whose one scale does not suit the data falls below them.
        Constant dimensions are the exception: the smaller the scale, the higher their density, without limit. They
        get the model's current scale, so that they count the same for both. So do dimensions with a few values far
        off, such as rarely set pixels, unless a scale between their own and the model's covers these values. No scale
        is below a given `min_scale`.

        Args:
            scale: the fitted scale of each dimension, 0 where it is constant.
            unit: a scale that covers values far off; that of all data where the dimension is constant.
        """
        scale = scale.maximum(unit.minimum(self.scale.to(unit)))
        low = self.start.low
        return scale if low is None else scale.maximum(self.start.in_units(low, self.unit.to(scale)))

    def full_gaussian(self, x: Tensor) -> FullGaussian | None:
        """Fit one Gaussian to x `[N, *data_shape]`, with the standard deviations of `own_scales`."""
        data = moments(x)
        return full_gaussian(x.flatten(1), self.own_scales(data.sd, data.unit).flatten())

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary, since a density says little about it, else None.

        Raises:
            BadInput: if its squares over- or underflow.
        """
        return density_of(self.name, x)
