"""The likelihood of values in [0, 1], for which the Bernoulli is often used by mistake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.likelihoods.checks import density_of, in_unit_interval
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments


class ContinuousBernoulli(Likelihood):
    """p(x | z) = Π_d CB(x_d; sigmoid(h_d + offset_d)) ∝ Π_d exp((h_d + offset_d) x_d), for continuous data in [0, 1].

    Loaiza-Ganem & Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
    https://arxiv.org/abs/1907.06845.

    Args:
        data_shape: shape of one datapoint.

    Example:
        >>> import torch
        >>> ContinuousBernoulli([6])(torch.zeros(5, 1, 6)).log_prob(torch.rand(6)).abs().max() < 1e-3  # uniform
        tensor(True)
    """

    discrete = False

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the parameters to the mean of x `[N, *data_shape]`, within ±20, beyond which learning is slow."""
        self.offset.copy_(self._natural(x).clamp(-20, 20))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for natural parameters u."""
        density: Any = _LogitContinuousBernoulli(logits=u.squeeze(-1 - self.event_dim))
        return density.to_event(self.event_dim)

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return continuous Bernoullis with each dimension's mean, kept 0.001 away from 0 and 1."""
        return self.at(self._natural(x))

    def _natural(self, x: Tensor) -> Tensor:
        """Find the natural parameters of the mean of x in ±1000 by bisection: float64, `[1, *data_shape]`."""
        mean = moments(x).mean.clamp(0.001, 0.999)
        low, high = torch.full_like(mean, -1000.0), torch.full_like(mean, 1000.0)
        for _ in range(60):  # to the last digit of float64
            middle = (low + high) / 2
            below = _LogitContinuousBernoulli(logits=middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).unsqueeze(0)

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary, since a density says little about it, else None.

        Raises:
            BadInput: if a value lies outside [0, 1].
        """
        in_unit_interval("continuous_bernoulli", x)
        return density_of("continuous_bernoulli", x)


class _LogitContinuousBernoulli(torch.distributions.ContinuousBernoulli, TorchDistributionMixin):
    """torch's distribution computed from the logit h: via sigmoid(h), float32 is not normalized beyond |h| = 16."""

    def _cont_bern_log_norm(self) -> Tensor:
        """Return log(h / tanh(h/2)), by its Taylor series where the derivatives of the quotient cancel."""
        h = self.logits
        near = h.abs() < 0.1
        far = torch.where(near, 1.0, h)
        return torch.where(near, math.log(2) + h**2 / 12 - 7 * h**4 / 1440, (far / (far / 2).tanh()).log())

    @property
    def mean(self) -> Tensor:
        """1 / (1 − e^−h) − 1/h."""
        h = self.logits
        near = h.abs() < 0.1
        far = torch.where(near, 1.0, h)
        return torch.where(near, 0.5 + h / 12 - h**3 / 720, -1 / torch.expm1(-far) - 1 / far)

    @property
    def variance(self) -> Tensor:
        """1/h² − 1 / (4 sinh²(h/2))."""
        h = self.logits
        near = h.abs() < 0.5
        far = torch.where(near, 1.0, h.abs())
        series = 1 / 12 - h**2 / 240 + h**4 / 6048 - h**6 / 172800
        return torch.where(near, series, 1 / far**2 - (-far).exp() / torch.expm1(-far) ** 2)

    def entropy(self) -> Tensor:
        """Return 1 − log(a / (1 − e^−a)) − a / (e^a − 1) for a = |h|, nats."""
        a = self.logits.abs()
        near = a < 0.1
        far = torch.where(near, 1.0, a)
        rest = -torch.expm1(-far)  # 1 − e^−a
        return torch.where(near, a**4 / 960 - a**2 / 24, 1 - (far / rest).log() - far * (-far).exp() / rest)

    def cdf(self, value: Tensor) -> Tensor:
        """Return (e^(hx) − 1) / (e^h − 1), from the side on which e^h cannot overflow."""
        x, rising = value.clamp(0, 1), self.logits > 0
        a = -self.logits.abs().clamp(min=1e-6)
        u = torch.expm1(a * torch.where(rising, 1 - x, x)) / torch.expm1(a)
        return torch.where(rising, 1 - u, u)

    def icdf(self, value: Tensor) -> Tensor:
        """Return log(1 + u (e^h − 1)) / h, from the side on which e^h cannot overflow."""
        rising = self.logits > 0
        a = -self.logits.abs().clamp(min=1e-6)
        x = (torch.where(rising, 1 - value, value) * torch.expm1(a)).log1p() / a
        return torch.where(rising, 1 - x, x).clamp(0, 1)
