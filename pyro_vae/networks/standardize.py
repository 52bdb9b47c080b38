"""Standardization of the encoder's input, whatever the units of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Computes (x − location) / scale for each dimension.

    It is the identity until `set`, and for checkpoints of earlier versions.

    Args:
        data_shape: shape of one datapoint.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        for name, value in self._identity(data_shape).items():
            self.register_buffer(name, value)

    @staticmethod
    def _identity(data_shape: Sequence[int]) -> dict[str, Tensor]:
        return {"location": torch.zeros(*data_shape), "scale": torch.ones(*data_shape)}

    @torch.no_grad()
    def set(self, location: Tensor, scale: Tensor) -> None:
        """Set location and scale, both `[*data_shape]`; the scale must be positive."""
        self.location.copy_(location)
        self.scale.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Standardize x `[..., *data_shape]`."""
        return (x - self.location) / self.scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        identity = {f"{prefix}{name}": value for name, value in self._identity(self.location.shape).items()}
        if not identity.keys() & state_dict.keys():
            state_dict.update(identity)
        super()._load_from_state_dict(state_dict, prefix, *args)
