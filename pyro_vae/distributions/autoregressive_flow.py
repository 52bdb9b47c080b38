"""Distributions transformed by networks that are cheap in one direction only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class AutoregressiveFlow(dist.TransformedDistribution):  # type: ignore[misc]
    """A `TransformedDistribution` of Pyro's autoregressive transforms, whose density and gradients can be relied on.

    Pyro's transforms keep their last input and output, so that the density of a draw does not take the D passes of
    the inverse. But a draw without a graph is then a constant whatever the parameters, and a draw changed in place
    keeps its old density. This keeps to them for the last draw, unchanged, where no gradient is lost.

    Attributes:
        features: from which `head` has made it, a flow of as many datapoints; `head(other)` makes one of others.
    """

    features: Tensor
    head: Callable[[Tensor], Any] | None = None
    _last_draw: tuple[Tensor, int] | None = None

    @classmethod
    def of(
        cls, features: Tensor, head: Callable[[Tensor], Any], base: Any, transforms: Sequence[Any]
    ) -> AutoregressiveFlow:
        """The flow that `head` makes of `features` `[..., num_features]`."""
        flow = cls(base, list(transforms))
        flow.features, flow.head = features, head
        return flow

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressiveFlow:
        """The same of more datapoints, as a plate asks for it."""
        flow: AutoregressiveFlow = super().expand(torch.Size(batch_shape), _instance)
        if self.head is not None:
            flow.features, flow.head = self.features.expand(*batch_shape, -1), self.head
        return flow

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A reparameterized draw `[*sample_shape, *batch_shape, D]`."""
        z: Tensor = super().rsample(torch.Size(sample_shape))
        self._last_draw = None if z.is_inference() else (z, z._version)
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw without a graph."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value) in nats, `[..., *batch_shape]`."""
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
