"""Gradients that reach only the model's parameters θ, or only the guide's φ."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor


def theta_and_phi(model_trace: Trace, guide_trace: Trace) -> tuple[list[Tensor], list[Tensor]]:
    """Return θ and φ, unconstrained; parameters of both programs belong to θ."""
    theta = set(model_trace.param_nodes)
    phi = [name for name in guide_trace.param_nodes if name not in theta]
    return _unconstrained(model_trace, model_trace.param_nodes), _unconstrained(guide_trace, phi)


def _unconstrained(trace: Trace, names: list[str]) -> list[Tensor]:
    constrained: list[Any] = [trace.nodes[name]["value"] for name in names]
    return [value.unconstrained() for value in constrained]


def gradient_only_of(params: list[Tensor], value: Tensor) -> Tensor:
    """Return a scalar equal to `value` whose gradient reaches only `params`. This frees the graph of `value`."""
    fixed = value.detach()
    if not params or not value.requires_grad:
        return fixed
    for p, g in zip(params, torch.autograd.grad(value, params, allow_unused=True), strict=True):
        if g is not None:
            linear = (g * p).sum()
            fixed = fixed + (linear - linear.detach())
    return fixed
