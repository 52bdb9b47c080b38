"""What a guide may know of the model."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LogJoint = Callable[[Tensor], Tensor]
"""z `[S, N, latent_dim]` -> log p(x, z) in nats `[S, N]`, differentiable in z and in the model's parameters."""
