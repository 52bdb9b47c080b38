"""Positive parameters from real numbers: lower bound + softplus(u)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, positive


def softplus_start(name: str, init: object, low: object) -> Tensor:
    """The u at which low + softplus(u) = init, for the options init_NAME and min_NAME of a likelihood.

    Raises:
        BadInput: if one of them is no positive number, or init does not exceed low.
    """
    start, bound = positive(f"likelihood.init_{name}", init), positive(f"likelihood.min_{name}", low)
    excess = start - bound
    if excess <= 0:
        raise BadInput(f"likelihood.init_{name}={init} must exceed likelihood.min_{name}={low}")
    return torch.tensor(excess + math.log(-math.expm1(-excess)))
