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
    """Computes head([body(x), c]), with c `[N, context_dim]` broadcast over the leading dimensions of x."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the head's output `[..., N, *]` for x `[..., N, *data_shape]` and c `[N, context_dim]`."""
        h = self.body(x)
        out: Tensor = self.head(torch.cat([h, c.expand(*h.shape[:-1], c.shape[-1])], dim=-1))
        return out
