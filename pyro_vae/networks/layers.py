"""Layers that the networks share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "softplus": nn.Softplus,
}  # fmt: skip


def stack(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Return linear layers between the widths, each followed by the activation."""
    act = ACTIVATIONS[activation]
    return [layer for m, n in pairwise(widths) for layer in (nn.Linear(m, n), act())]


class WithContext(nn.Module):
    """Computes head([body(x), c]) for x `[..., *data_shape]` and c `[..., context_dim]`, whose `...` broadcast."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the head's output `[..., *]`."""
        h = self.body(x)
        batch_shape = torch.broadcast_shapes(h.shape[:-1], c.shape[:-1])
        out: Tensor = self.head(torch.cat([part.expand(*batch_shape, part.shape[-1]) for part in (h, c)], dim=-1))
        return out
