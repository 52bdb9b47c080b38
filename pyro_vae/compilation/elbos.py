"""Pyro's ELBOs, traced once and compiled: a `JitTrace_ELBO` at the speed of `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.infer
import torch
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import owned, with_gradients
from pyro_vae.objectives import IWAE, Bound
from pyro_vae.objectives.elbo import surrogate_loss
from pyro_vae.programs.trace import Program


class _CompiledELBO(pyro.infer.ELBO):
    """The methods of an ELBO that SVI and users call, computed by graphs of its surrogate loss.

    Args:
        *args: of the ELBO.
        backend: see `Compiled`.
        **kwargs: of the ELBO.
    """

    def __init__(self, *args: Any, backend: str = "inductor", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._loss_and_gradients = Compiled(with_gradients(self._surrogate), backend, watch=True)
        self._loss = Compiled(torch.no_grad()(self._surrogate), backend, watch=True)

    _surrogate: Callable[..., Any] = surrogate_loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return −ELBO in nats."""
        value = self._loss(model, guide, *args, **kwargs)
        return _number(value[0] if isinstance(value, tuple) else value)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return −ELBO in nats, and add its gradient to `.grad` of the parameters."""
        (loss, *_), parameters, gradients = self._loss_and_gradients(model, guide, *args, **kwargs)
        for parameter, gradient in zip(parameters, owned(gradients), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return _number(loss)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return −ELBO in nats; call `backward` on it once at most."""
        return self._values(model, guide, *args, **kwargs)[0]

    def _values(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the loss, which carries its gradient, and the other results of `_surrogate`."""
        (loss, *others), parameters, gradients = self._loss_and_gradients(*args, **kwargs)
        return [_Differentiable.apply(loss, owned(gradients), *parameters), *others]


def _number(loss: Tensor) -> float:
    value: Any = loss.item()
    return warn_if_nan(value, "loss")


class _Differentiable(torch.autograd.Function):
    """A scalar with precomputed gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer * gradient for gradient in ctx.gradients)


class CompiledTrace_ELBO(_CompiledELBO, pyro.infer.Trace_ELBO):
    """`pyro.infer.Trace_ELBO`, compiled; for any model and guide of static structure, including Pyro's autoguides.

    **Pass values that change between calls as tensor arguments** of the model and guide, such as a weight of the KL
    for `poutine.scale`. A graph contains only tensors. All other values stay as they were when it was traced:

    - Each value of a number among the arguments gets a separate graph.
    - A number, an array, or a branch that depends on a global or on an attribute stays as it was traced, and so does
      noise from `random` or NumPy. The ELBO compares the program with its graph in the 3rd, 12th, 102nd, 1002nd, ...
      call. If it finds a difference, it warns, names the line, and continues without compiling. It detects a later
      change only in the next of these calls; losses until then use the old value. Tensors updated in place are always
      up to date; tensors that are replaced are not.
    - Code without effect on the loss (prints, counters) runs only while tracing and comparing.
    - Distributions check their parameters and values in the first call only.

    A program that cannot be compiled runs eagerly, with the same losses, after a warning that names the line.

    See `pyro.infer.ELBO` for the arguments, and `Compiled` for the limits.

    Example:
        >>> svi = SVI(model, guide, optim, CompiledTrace_ELBO())  # doctest: +SKIP
        >>> svi.step(x, torch.tensor(kl_weight))                   # doctest: +SKIP
    """


class CompiledTraceMeanField_ELBO(_CompiledELBO, pyro.infer.TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, compiled; see `CompiledTrace_ELBO`."""


class CompiledIWAE(_CompiledELBO, IWAE):
    """`IWAE`, compiled: L_K of each datapoint of the batch, the first argument; see `CompiledTrace_ELBO`."""

    def _surrogate(self, *args: Any, **kwargs: Any) -> Bound:
        return IWAE.bound(self, *args, **kwargs)

    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Bound:
        """Evaluate L_K on a batch."""
        return Bound(*self._values(model, guide, *args, **kwargs))
