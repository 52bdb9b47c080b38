"""A multivariate normal that caches the noise of its last draw."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class CholeskyNormal(dist.MultivariateNormal):
    """N(μ, L Lᵀ) that computes the density of its last draw z = μ + Lε without a triangular solve.

    log q(z) = Σ_i (log N(ε_i; 0, 1) − log L_ii): Kingma & Welling (2019), algorithm 2. For any other value
    ε = L⁻¹(z − μ) is solved for. Densities equal those of `MultivariateNormal`, and so do gradients for μ and L. For a
    gradient for the draw itself give `log_prob` a copy, `z.detach().requires_grad_()`.

    Example:
        >>> q = CholeskyNormal(torch.zeros(5, 3), scale_tril=torch.eye(3))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    _last_draw: tuple[Tensor, Tensor, int] | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw `[*sample_shape, *batch_shape, D]`, reparameterized; the noise is kept for `log_prob`."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        z: Tensor = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self._last_draw = None if z.is_inference() else (z, noise, z._version)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(value) in nats, `[..., *batch_shape]`."""
        if self._validate_args:
            self._validate_sample(value)
        scale_tril: Tensor = self._unbroadcasted_scale_tril
        noise = self._noise_of(value)
        if noise is None:
            difference = (value - self.loc).unsqueeze(-1)
            noise = torch.linalg.solve_triangular(scale_tril, difference, upper=False).squeeze(-1)
        log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).log()
        return -(0.5 * noise.square() + 0.5 * math.log(2 * math.pi) + log_diagonal).sum(-1)

    def _noise_of(self, value: Tensor) -> Tensor | None:
        """Return the noise from which `value` was made if it is the last draw, unchanged."""
        if self._last_draw is None:
            return None
        z, noise, version = self._last_draw
        if value is not z or value._version != version:
            return None
        # the gradient treats a draw without a graph as a constant: ε then depends on the parameters and on z
        inputs = (z, self.loc, self._unbroadcasted_scale_tril)
        return noise if z.grad_fn is not None or not any(t.requires_grad for t in inputs) else None
