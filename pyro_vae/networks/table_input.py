"""The encoder's input of a table's row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.networks.standardize import Standardize

TINY = 1e-30
"""Positive values are at least this before their logarithm is computed."""


class TableInput(Standardize):
    """Maps rows x `[..., P]` to numbers, standardized, followed by one-hot categories; missing entries become 0.

    Args:
        scales: for each column `linear`, `log`, `log1p`, or `one_hot`.
        num_categories: for each column; used where its scale is `one_hot`.
    """

    is_log: Tensor
    is_log1p: Tensor
    numbers: Tensor
    columns: Tensor
    levels: Tensor

    def __init__(self, scales: Sequence[str], num_categories: Sequence[int]) -> None:
        super().__init__([len(scales)])
        coded = [(j, level) for j, n in enumerate(num_categories) if scales[j] == "one_hot" for level in range(n)]
        constants = {
            "is_log": torch.tensor([scale == "log" for scale in scales]),
            "is_log1p": torch.tensor([scale == "log1p" for scale in scales]),
            "numbers": torch.tensor([j for j, scale in enumerate(scales) if scale != "one_hot"], dtype=torch.long),
            "columns": torch.tensor([j for j, _ in coded], dtype=torch.long),
            "levels": torch.tensor([level for _, level in coded], dtype=torch.long),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def transform(self, x: Tensor) -> Tensor:
        """Return x with logarithms of positive values, and of counts plus 1."""
        x = torch.where(self.is_log, x.clamp(min=TINY).log(), x)
        return torch.where(self.is_log1p, x.clamp(min=0).log1p(), x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input `[..., num_numbers + Σ num_categories]` of rows x `[..., P]`."""
        numbers = super().forward(self.transform(x)).index_select(-1, self.numbers)
        one_hot = x.index_select(-1, self.columns) == self.levels
        return torch.cat([numbers.nan_to_num(0.0), one_hot.to(x.dtype)], -1)
