"""The likelihood of continuous data with outliers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.distributions import StudentTInDouble
from pyro_vae.errors import BadInput, positive
from pyro_vae.likelihoods.moments import moments, num_observed, root_mean_square
from pyro_vae.likelihoods.scaled import SHARE, Scaled
from pyro_vae.likelihoods.softplus import Start

FITTED_TO = 2**22
"""Limit of the numbers that location and scale are fitted to: more would hardly change them."""
NUM_STEPS = 50
"""Steps of the fit, which gains two digits a step for the default ν = 5."""


class StudentT(Scaled):
    """p(x | z) = Π_d t_ν(x_d; μ_d(z), σ) with one learned σ, a density for continuous data with outliers.

    Lange, Little & Taylor (1989), Robust statistical modeling using the t distribution,
    https://doi.org/10.2307/2290063. As for `Gaussian`, a·x + b is learned as well as x; location and scale of the data
    are those of t distributions fitted to each dimension, which are robust to outliers.

    Args:
        data_shape: shape of one datapoint.
        df: degrees of freedom ν, above 2, so that there is a variance, σ² ν / (ν − 2), up to 1e8, a Gaussian.
        init_scale: starting value of σ; None: a quarter of the data's scale, as for `Gaussian`.
        min_scale: lower bound of σ, without which the density of constant dimensions has no maximum; None: a hundredth
            of `init_scale` or of the data's scale.
        standardize: measure each dimension in its own scale, as for `Gaussian`.

    Example:
        >>> import torch
        >>> StudentT([6], df=3.0)(torch.zeros(5, 1, 6)).log_prob(torch.zeros(6)).shape
        torch.Size([5])
    """

    name = "student_t"

    def __init__(
        self,
        data_shape: Sequence[int],
        df: float = 5.0,
        init_scale: float | None = None,
        min_scale: float | None = None,
        standardize: bool | None = None,
    ) -> None:
        self.df = positive("df", df)
        if self.df <= 2:
            raise BadInput(f"df={df} must exceed 2, so that there is a variance")
        if self.df > 1e8:  # log Γ(ν/2) runs out of digits
            raise BadInput(f"df={df} exceeds 1e8 and makes a Gaussian: use likelihood=gaussian")
        start = Start("scale", init_scale, min_scale, share=SHARE, relative=standardize is True)
        super().__init__(data_shape, 1, (), start, standardize)
        self.add_learned_scale()

    def initialize_from(self, x: Tensor) -> None:
        """Start μ at the locations of t distributions fitted to x `[N, *data_shape]`, and measure σ in their scale."""
        loc, scale, unit = self._fit(x)
        self.start_at(loc, root_mean_square(scale) if self.has_one_scale else unit)

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for locations u."""
        loc = self.unit * u.squeeze(-1 - self.event_dim)
        return StudentTInDouble(self.df, loc, self.scale).to_event(self.event_dim)

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return t distributions with each dimension's location and scale; see `own_scales`.

        The density of a dimension with many equal values may have no maximum. If they are more than half, the least
        scale is that of a Gaussian.
        """
        x = _first_part(x)
        loc, scale, unit = self._fit(x)
        first, _, third = _quartiles(x)
        scale = self.own_scales(scale, torch.where(third > first, unit, moments(x).unit))
        return StudentTInDouble(torch.full_like(loc, self.df), loc, scale).to_event(self.event_dim)

    def location_and_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fitted location and scale of each dimension."""
        loc, _, unit = self._fit(x)
        return loc, unit

    def _fit(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return location, scale and a scale that is never 0 for each dimension, float64, `[*data_shape]`.

        EM of Lange, Little & Taylor (1989), §3, started at the quartiles, on the first part of large data.
        """
        x = _first_part(x)
        N = num_observed(x)
        first, median, third = _quartiles(x)
        data = moments(x)
        spread = torch.where(third > first, (third - first) / 1.349, data.unit)
        loc, scale = torch.where(data.sd > 0, median, data.mean), spread
        x, missing = x.double().nan_to_num(0.0), x.isnan()
        for _ in range(NUM_STEPS):
            w = ((self.df + 1) / (self.df + ((x - loc) / scale).square())).where(~missing, 0.0)
            loc = (w * x).sum(0) / w.sum(0)
            square = (w * (x - loc).square()).sum(0) / N
            scale = square.sqrt().maximum(0.01 * spread)
        constant = data.sd == 0
        unit = torch.where(constant, root_mean_square(scale.where(~constant, 0.0)), scale)
        return loc, scale.where(~constant, 0.0), unit


def _first_part(x: Tensor) -> Tensor:
    """Return the first datapoints of x `[N, *data_shape]`, about `FITTED_TO` numbers."""
    return x[: max(1000, FITTED_TO // x[0].numel())]


def _quartiles(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the quartiles of each dimension of x `[N, *data_shape]`, without NaN: three float64, `[*data_shape]`."""
    n = num_observed(x)
    if isinstance(n, Tensor):
        ordered = x.double().sort(0)[0]  # NaN comes last
        rank = ((n * q).round().long().clamp(min=1) - 1 for q in (0.25, 0.5, 0.75))
        first, median, third = (ordered.gather(0, k.unsqueeze(0))[0] for k in rank)
    else:
        first, median, third = (x.kthvalue(max(1, round(len(x) * q)), dim=0)[0].double() for q in (0.25, 0.5, 0.75))
    return first, median, third
