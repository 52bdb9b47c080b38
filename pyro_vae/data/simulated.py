"""Simulated data sets, the same in every run."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.split import three_way_split
from pyro_vae.errors import positive_int, within

MAX_DATA = 10**7
"""Maximum number of simulated datapoints, which take a gigabyte with intermediate results."""


def ring(num_data: int = 5000, noise: float = 0.0, split_seed: int = 0, **kwargs: Any) -> Dataset:
    """Simulate a ring in the plane: x = z/10 + z/‖z‖ + noise·ε with z, ε ~ N(0, I_2); `[2]`, 80/10/10 %.

    Doersch (2016), Tutorial on variational autoencoders, https://arxiv.org/abs/1606.05908, figure 2.

    Args:
        num_data: number of datapoints.
        noise: standard deviation of the observation noise; Doersch uses none.
        split_seed: seed of the split.
        **kwargs: `binarize`, `eval_seed`, `num_levels`, `dequantize` and `num_labels` of `Dataset`.

    Raises:
        BadInput: if num_data or noise is out of range.
    """
    n = positive_int("num_data", num_data, high=MAX_DATA)
    z, epsilon = torch.randn(2, n, 2, generator=torch.Generator().manual_seed(0))
    x = z / 10 + z / z.norm(dim=-1, keepdim=True) + within("noise", noise, low=0) * epsilon
    return Dataset(*three_way_split(x, None, 0.1, 0.1, split_seed), **kwargs)
