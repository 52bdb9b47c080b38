"""The likelihood of grey values that uses their order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.data.units import Units, units_of
from pyro_vae.distributions import LogisticLevels
from pyro_vae.errors import MAX_WIDTH, positive_int
from pyro_vae.likelihoods.checks import on_grid
from pyro_vae.likelihoods.levels import level_marginals
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.softplus import Start

NARROWEST = 0.5
"""Lower limit of a pixel's initial standard deviation, relative to that of all data.

With a narrower start, the values of rarely set pixels lie far out in the tail, and their gradients dominate.
"""


class DiscretizedLogistic(Likelihood):
    """A logistic density, or a mixture of them, integrated over bins around the grid x_d = k_d / (num_levels − 1).

    For discrete data on that grid. The first and last bin reach to −∞ and ∞: Salimans, Karpathy, Chen & Kingma (2017),
    PixelCNN++, https://arxiv.org/abs/1701.05517, eq. 2. Pixels and channels are independent given z.

    Args:
        data_shape: shape of one datapoint.
        num_levels: number of grey levels.
        num_components: components of each pixel's mixture.
        init_scale: the logistics' scale at h = 0, for data of range 1; None: the value that gives the data's variance,
            or, without data, 0.1.
        min_scale: its lower bound; PixelCNN++ uses e^−7 for a range of 2.

    Example:
        >>> import torch
        >>> p = DiscretizedLogistic([6], num_levels=17)(torch.zeros(5, 1, 6))
        >>> bool((p.log_prob(p.sample()) < 0).all())  # probabilities
        True
    """

    discrete = True
    integers = "levels"

    def __init__(
        self,
        data_shape: Sequence[int],
        num_levels: int = 256,
        num_components: int = 1,
        init_scale: float | None = None,
        min_scale: float = 0.0005,
    ) -> None:
        self.num_components = positive_int("num_components", num_components, MAX_WIDTH)
        super().__init__(data_shape, 2 if num_components == 1 else 3 * num_components)
        self.grid = Grid(num_levels)
        self.start = Start("scale", init_scale, min_scale)
        self.min_scale = min_scale
        self.register_start()

    def start_without_data(self) -> dict[str, Tensor]:
        """Return buffers for locations and logits of 0 and scales of 0.1."""
        D = self.param_shape[1:]
        scale = torch.full(D, 0.1)
        return {"offset": self._offset(torch.zeros(self.num_components, *D), scale)}

    def _offset(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the offset for locations `[num_components, *data_shape]` and a scale `[*data_shape]`."""
        raw = self.start.raw(scale, torch.ones(())).expand_as(loc)
        return torch.cat([loc, raw, torch.zeros_like(loc)])[: self.param_shape[0]]

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Start at the mean and standard deviation of x `[N, *data_shape]`; see `NARROWEST`."""
        self.offset.copy_(self._of_data(x))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for locations, scales before their softplus, and logits of the components."""
        u = u.movedim(-1 - self.event_dim, -1)
        loc, raw, *logits = u.split(self.num_components, dim=-1)
        components = LogisticLevels(loc, self.min_scale + F.softplus(raw), self.grid.num_levels)
        # one logistic is its own mixture, with weight 1
        mixture = dist.Categorical(logits=logits[0] if logits else torch.zeros_like(loc))
        return dist.MixtureSameFamily(mixture, components).to_event(self.event_dim)

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return each dimension's smoothed frequencies, a larger family than mixtures of logistics."""
        return level_marginals(x, self.grid)

    def _of_data(self, x: Tensor) -> Tensor:
        """Return parameters for each dimension's mean and standard deviation, ignoring the ends of the grid.

        The latter is at least `NARROWEST` times the standard deviation of all data. With several components, half of
        the variance is between them. float64, `[*param_shape]`.
        """
        data, M = moments(x), self.num_components
        sd = data.sd.maximum(NARROWEST * data.whole)
        between = 0.5 * (1 - 1 / M**2)
        place = (2 * torch.arange(M).to(data.mean) + 1 - M) / M  # even steps in (−1, 1), of variance (1 − 1/M²) / 3
        loc = data.mean + math.sqrt(1.5) * sd * place.reshape(-1, *[1] * self.event_dim)
        scale = sd * math.sqrt(1 - between) * math.sqrt(3) / math.pi
        return self._offset(loc, scale)

    @property
    def units(self) -> Units:
        """What integers in users' arrays are divided by: the largest level."""
        return units_of(self.integers, self.grid.num_levels)

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary and the grid is not, else None.

        Raises:
            BadInput: if a value is not on the grid.
        """
        return on_grid("discretized_logistic", x, self.grid)
