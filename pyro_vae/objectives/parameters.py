"""Whose a parameter is, the model's (θ) or the guide's (φ), and gradients for some of them."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor


def parameters(model_trace: Trace, guide_trace: Trace) -> tuple[list[Tensor], list[Tensor]]:
    """θ and φ, unconstrained; what occurs in both programs is the model's."""
    theta = set(model_trace.param_nodes)
    phi = [name for name in guide_trace.param_nodes if name not in theta]
    return _values(model_trace, model_trace.param_nodes), _values(guide_trace, phi)


def _values(trace: Trace, names: list[str]) -> list[Tensor]:
    constrained: list[Any] = [trace.nodes[name]["value"] for name in names]
    return [value.unconstrained() for value in constrained]


def only(value: Tensor, params: list[Tensor]) -> Tensor:
    """The same number, whose gradient reaches none but `params`. It uses up the graph of `value`."""
    fixed = value.detach()
    if not params or not value.requires_grad:
        return fixed
    for p, g in zip(params, torch.autograd.grad(value, params, allow_unused=True), strict=True):
        if g is not None:
            linear = (g * p).sum()
            fixed = fixed + (linear - linear.detach())
    return fixed
