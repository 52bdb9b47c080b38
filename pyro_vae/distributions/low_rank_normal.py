"""A multivariate normal with few directions of correlation, in double precision."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class LowRankNormal(dist.LowRankMultivariateNormal):
    """N(μ, W Wᵀ + diag σ²) whose density is computed in double precision; values have the dtype of μ.

    By Woodbury's identity dᵀ Σ⁻¹ d is a difference of terms that are (‖W‖/σ)² times as large: if the posterior is
    narrow across its few directions, single precision has errors of several nats in log q.

    Args:
        loc: μ `[..., D]`.
        cov_factor: W `[..., D, rank]`.
        cov_diag: σ² `[..., D]`.
        validate_args: as for all distributions of Pyro.

    Example:
        >>> q = LowRankNormal(torch.zeros(5, 3), torch.ones(5, 3, 1), torch.ones(5, 3))
        >>> q.rsample().dtype, q.log_prob(torch.zeros(3)).dtype
        (torch.float32, torch.float32)
    """

    def __init__(self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc.double(), cov_factor.double(), cov_diag.double(), validate_args=validate_args)
        self.loc = self.loc.to(loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with another batch shape."""
        new = self._get_checked_instance(LowRankNormal, _instance)  # type: ignore[no-untyped-call]
        return super().expand(torch.Size(batch_shape), new)  # type: ignore[no-untyped-call]

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, `[..., D]`."""
        of_factor = self._unbroadcasted_cov_factor.square().sum(-1)
        return (of_factor + self._unbroadcasted_cov_diag).expand(self.loc.shape).to(self.loc.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw `[*sample_shape, *batch_shape, D]`, reparameterized."""
        like, shape = self.loc, self._extended_shape(sample_shape)
        W, sigma = self._unbroadcasted_cov_factor.to(like.dtype), self._unbroadcasted_cov_diag.sqrt().to(like.dtype)
        common = torch.randn(shape[:-1] + W.shape[-1:], dtype=like.dtype, device=like.device)
        own = torch.randn(shape, dtype=like.dtype, device=like.device)
        return like + (W @ common.unsqueeze(-1)).squeeze(-1) + sigma * own

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(value) in nats, `[..., *batch_shape]`."""
        return super().log_prob(value.double()).to(self.loc.dtype)  # type: ignore[no-untyped-call]

    def entropy(self) -> Tensor:
        """Return the entropy in nats, `[*batch_shape]`."""
        return super().entropy().to(self.loc.dtype)  # type: ignore[no-untyped-call]
