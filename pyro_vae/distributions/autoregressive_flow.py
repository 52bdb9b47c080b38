"""Distributions transformed by networks that are fast in one direction only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class AutoregressiveFlow(dist.TransformedDistribution):  # type: ignore[misc]
    """A `TransformedDistribution` of Pyro's autoregressive transforms, with correct densities and gradients.

    Pyro's transforms cache their last input and output, so that the density of a draw does not need the D passes of
    the inverse. But then the density of a draw without a graph has no gradient for the parameters, and a draw that was
    changed in place keeps its old density. This class uses the cache only for the last draw, unchanged, if no gradient
    is lost.

    Attributes:
        features: the features `[..., num_features]` from which `head` made this flow.
        head: makes the flow for other features.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro.distributions.transforms import affine_autoregressive
        >>> q = AutoregressiveFlow(dist.Normal(torch.zeros(3), 1.0).to_event(1), [affine_autoregressive(3, [8])])
        >>> q.log_prob(q.rsample()).shape
        torch.Size([])
    """

    features: Tensor
    head: Callable[[Tensor], Any] | None = None
    _last_draw: tuple[Tensor, int] | None = None

    @classmethod
    def of(
        cls, features: Tensor, head: Callable[[Tensor], Any], base: Any, transforms: Sequence[Any]
    ) -> AutoregressiveFlow:
        """Return the flow that `head` makes from `features` `[..., num_features]`."""
        flow = cls(base, list(transforms))
        flow.features, flow.head = features, head
        return flow

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveFlow:
        """Return the flow with another batch shape."""
        flow: AutoregressiveFlow = super().expand(torch.Size(batch_shape), _instance)
        if self.head is not None:
            flow.features, flow.head = self.features.expand(*batch_shape, -1), self.head
        return flow

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw `[*sample_shape, *batch_shape, D]`, reparameterized."""
        z: Tensor = super().rsample(torch.Size(sample_shape))
        self._last_draw = None if z.is_inference() else (z, z._version)
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw without a graph."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(value) in nats, `[..., *batch_shape]`."""
        if not self._keeps(value):
            # another tensor, which the transforms have not seen
            value = value.expand(torch.broadcast_shapes(value.shape, self.shape()))
        log_q: Tensor = super().log_prob(value)
        return log_q

    def _keeps(self, value: Tensor) -> bool:
        if self._last_draw is None:
            return False
        z, version = self._last_draw
        constant = z.grad_fn is None and torch.is_grad_enabled()
        return value is z and value._version == version and not constant
