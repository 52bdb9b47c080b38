"""Pyro's ELBOs, traced once and compiled: what `JitTrace_ELBO` is meant to be, at the speed of compiled torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.infer
import torch
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import owned, with_gradients
from pyro_vae.objectives import IWAE
from pyro_vae.objectives.elbo import surrogate_loss
from pyro_vae.programs.trace import Program


class _CompiledELBO(pyro.infer.ELBO):
    """The methods of an ELBO that SVI and users call, by graphs of its surrogate loss.

    Args:
        *args: the ELBO's own.
        backend: see `tracing.Compiled`.
        **kwargs: the ELBO's own.
    """

    def __init__(self, *args: Any, backend: str = "inductor", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._loss_and_gradients = Compiled(with_gradients(self._surrogate), backend, watch=True)
        self._loss = Compiled(torch.no_grad()(self._surrogate), backend, watch=True)

    _surrogate: Callable[..., Any] = surrogate_loss

    def _report(self, *others: Tensor) -> None:
        """Take in what came along with the loss."""

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """−ELBO, nats."""
        value = self._loss(model, guide, *args, **kwargs)
        loss, *others = value if isinstance(value, tuple) else (value,)
        self._report(*others)
        return _number(loss)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """−ELBO, nats; its gradient is added to `.grad` of the parameters."""
        loss, parameters, gradients = self._run(model, guide, *args, **kwargs)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return _number(loss)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """−ELBO, nats, from which `backward` leads to the parameters, once."""
        loss, parameters, gradients = self._run(model, guide, *args, **kwargs)
        value: Tensor = _Differentiable.apply(loss, gradients, *parameters)
        return value

    def _run(self, *args: Any, **kwargs: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        (loss, *others), parameters, gradients = self._loss_and_gradients(*args, **kwargs)
        self._report(*others)
        return loss, parameters, owned(gradients)


def _number(loss: Tensor) -> float:
    value: Any = loss.item()
    return warn_if_nan(value, "loss")


class _Differentiable(torch.autograd.Function):
    """A scalar whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(outer * gradient for gradient in ctx.gradients)


class CompiledTrace_ELBO(_CompiledELBO, pyro.infer.Trace_ELBO):
    """`pyro.infer.Trace_ELBO`, compiled; for any model and guide of static structure, Pyro's autoguides among them.

    **Pass what changes between calls as a tensor argument** of the model and guide: a weight of the KL for
    `poutine.scale`, for example. A graph holds only tensors. Of everything else it keeps the value it was traced with:

    - A number among the arguments that changes makes a new graph for each value.
    - A number, an array, or a branch that depends on a global or on an attribute stays as it was traced, and so does
      noise from `random` or NumPy. The ELBO compares the program with its graph in the 3rd, 12th, 102nd, 1002nd, ...
      call. If it finds a difference, it warns, names the line, and goes on without compiling. A later change goes
      unnoticed until the next of these calls, and losses until then use the old value. Tensors that are updated in
      place are always seen; tensors that are replaced are not.
    - Code without effect on the loss (prints, counters) runs only while tracing and comparing.
    - Distributions check their parameters and values in the first call only.

    A program that cannot be compiled runs as it is, with the same losses, after a warning that names the line.

    Args and limits are those of `pyro.infer.ELBO` and of `tracing.Compiled`.

    Example:
        >>> svi = SVI(model, guide, optim, CompiledTrace_ELBO())  # doctest: +SKIP
        >>> svi.step(x, torch.tensor(kl_weight))                   # doctest: +SKIP
    """


class CompiledTraceMeanField_ELBO(_CompiledELBO, pyro.infer.TraceMeanField_ELBO):
    """`pyro.infer.TraceMeanField_ELBO`, compiled; see `CompiledTrace_ELBO`."""


class CompiledIWAE(_CompiledELBO, IWAE):
    """`IWAE`, compiled: per datapoint of a batch, which is the first argument; see `CompiledTrace_ELBO`."""

    def _surrogate(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return IWAE.differentiable_loss(self, *args, **kwargs), self.elbo, self.log_likelihood

    def _report(self, *others: Tensor) -> None:
        self.elbo, self.log_likelihood = others
