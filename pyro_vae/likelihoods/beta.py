"""The likelihood of proportions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.distributions import BetaInDouble
from pyro_vae.errors import BadInput
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.softplus import Start


class Beta(Likelihood):
    """p(x | z) = Π_d Beta(x_d; α_d(z), β_d(z)), a density for continuous data in the open interval (0, 1).

    α and β are measured in units of their mean for the data, but at least 1.

    Args:
        data_shape: shape of one datapoint.
        init_concentration: α and β at h = 0; None: the values that match the mean and the variance of the data, or,
            without data, 1, the uniform density.
        min_concentration: lower bound of both, without which the density could concentrate at its poles at 0 and 1.

    Example:
        >>> import torch
        >>> Beta([6])(torch.zeros(5, 2, 6)).log_prob(torch.full([6], 0.5)).shape
        torch.Size([5])
    """

    discrete = False
    unit: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        init_concentration: float | None = None,
        min_concentration: float = 0.01,
    ) -> None:
        super().__init__(data_shape, 2)
        self.start = Start("concentration", init_concentration, min_concentration)
        self.min_concentration = min_concentration
        self.register_start()

    def start_without_data(self) -> dict[str, Tensor]:
        """Return buffers for concentrations of 1."""
        unit = torch.ones(self.param_shape[1:])
        return {"offset": self.start.raw(torch.ones(self.param_shape), unit), "unit": unit}

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the concentrations to those of x `[N, *data_shape]`."""
        concentration = self._concentration(x)
        unit = self.start.value(concentration).mean(0).clamp(min=1)
        self.unit.copy_(unit)
        self.offset.copy_(self.start.raw(concentration, unit))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for the unconstrained parameters of α and β."""
        alpha, beta = u.unbind(-1 - self.event_dim)
        low = self.min_concentration
        return self._of(low + self.unit * F.softplus(alpha), low + self.unit * F.softplus(beta))

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return Betas with each dimension's mean and variance, as far as the bound of the concentrations allows."""
        return self._of(*self._concentration(x))

    def _concentration(self, x: Tensor) -> Tensor:
        """Return α and β that match the mean and variance of x, float64, `[2, *data_shape]`."""
        data = moments(x)
        mean = data.mean.clamp(1e-6, 1 - 1e-6)
        both = (mean * (1 - mean) / data.sd.square().clamp(min=1e-12) - 1).clamp(max=1e6)
        return (torch.stack([mean, 1 - mean]) * both).clamp(min=self.min_concentration)

    def _of(self, alpha: Tensor, beta: Tensor) -> TorchDistributionMixin:
        return BetaInDouble(alpha, beta).to_event(self.event_dim)  # type: ignore[no-untyped-call]

    def check(self, x: Tensor) -> str | None:
        """Return None.

        Raises:
            BadInput: if a value lies outside (0, 1).
        """
        low, high = x.min().item(), x.max().item()
        if low <= 0 or high >= 1:
            raise BadInput(
                f"likelihood=beta needs values strictly between 0 and 1, the data span [{low:.4g}, {high:.4g}]: "
                "use data.dequantize=true data.binarize=none for grey values, rescale them, or use "
                "likelihood=continuous_bernoulli"
            )
        return None
