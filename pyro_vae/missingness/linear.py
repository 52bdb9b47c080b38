"""Missingness of an entry that depends on the values of all entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.missingness.missingness import Missingness


class Linear(Missingness):
    """logit p(x_d is missing | x) = Σ_e W_de u_e + b_d: the values of all entries decide whether one is missing.

    u is x, standardized by the observed training data. The logistic regression of Ipsen, Mattei & Frellsen (2021),
    https://arxiv.org/abs/2006.12871, §3, which assumes less than `SelfMasking`, and is harder to learn.

    Args:
        data_shape: shape of one datapoint, D numbers. W is a matrix `[D, D]`.
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape)
        D = math.prod(data_shape)
        self.weight = nn.Parameter(torch.zeros(D, D))

    def logits(self, u: Tensor) -> Tensor:
        """Return the logits that entries are observed, given u: `[..., *data_shape]`, both."""
        return self.intercept - (u.flatten(-self.event_dim) @ self.weight.T).reshape(u.shape)
