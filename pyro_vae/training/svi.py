"""Pyro's SVI, whose step costs no more than the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import pyro
import pyro.infer
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import owned, with_gradients
from pyro_vae.errors import one_of
from pyro_vae.parallel.collectives import mean, world_size
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.trace import Program
from pyro_vae.training.nonfinite import NotFinite
from pyro_vae.training.precision import BFloat16Products

PRECISIONS = ("float32", "bf16-mixed")


class SVI(pyro.infer.SVI):
    """`pyro.infer.SVI` of a loss that leaves what it computes on the device.

    Where Pyro's step fills gradients with zeros and reads the loss, this one drops them and returns tensors.

    Args:
        model: Pyro program.
        guide: Pyro program.
        optim: steps all parameters of the param store.
        loss: `loss(model, guide, *args)` -> a scalar, or a tuple of it and others that come along.
        precision: of matrix products: `float32`, or `bf16-mixed` (`BFloat16Products`).
        finite: what a step makes sure of: `loss`, `gradient`. A GPU is waited for.

    Raises:
        BadInput: if there is no such precision.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: PyroOptim,
        loss: Callable[..., Any],
        precision: str = "float32",
        finite: Collection[str] = (),
    ) -> None:
        super().__init__(model, guide, optim, loss)  # type: ignore[no-untyped-call]
        one_of("precision", precision, PRECISIONS)
        self.finite = finite
        bf16 = {"context": BFloat16Products} if precision == "bf16-mixed" else {}
        self.gradients: Callable[..., Any] = with_gradients(loss, **bf16)
        """The loss and what comes along, the parameters and their gradients."""

    def step(self, *args: Any, weight: float = 1.0, **kwargs: Any) -> list[Tensor]:
        """One step; the loss and what comes along with it, detached.

        Args:
            *args: of the loss.
            weight: where several processes train, of this one's loss in their mean, the loss whose gradient is
                followed; what comes along is this one's.
            **kwargs: of the loss.

        Raises:
            NotFinite: if it has been looked for; nothing is updated then.
        """
        before = _drop_gradients()  # so that the next may take their memory
        values, parameters, gradients = self.gradients(self.model, self.guide, *args, **kwargs)
        if world_size() == 1:
            gradients = owned(gradients)
        else:
            values[0], *gradients = mean([values[0], *gradients], weight)
        if "loss" in self.finite and not math.isfinite(values[0].item()):
            raise NotFinite(f"the loss is {values[0].item()}")
        if "gradient" in self.finite and not nn.utils.get_total_norm(gradients).isfinite():
            raise NotFinite("the gradient is not finite")
        every = _every()
        if len(every) > before:
            _drop_gradients()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optim(every)
        return [value.clone() for value in values]  # the next step may write over them

    def dry_run(self, *args: Any, **kwargs: Any) -> None:
        """The loss and its gradient to no effect: no noise is used up, nothing is learnt, no statistics run on."""
        owners = [getattr(program, "__self__", program) for program in (self.model, self.guide)]
        buffers = [b for owner in owners if isinstance(owner, nn.Module) for b in owner.buffers()]
        before = [buffer.clone() for buffer in buffers]
        with fork_rng(*args):
            self.gradients(self.model, self.guide, *args, **kwargs)
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

    def compile(self, dry_run: Callable[[], None]) -> None:
        """Compile the loss and its gradient for such arguments as `dry_run` runs them with.

        With all others, a shorter batch say, they go on running as they are.
        """
        compiled = Compiled(self.gradients, keep=False)
        self.gradients = compiled
        compiled.take_only(dry_run)


def _every() -> Collection[Tensor]:
    """All parameters of Pyro's store, unconstrained."""
    return dict(pyro.get_param_store().named_parameters()).values()


def _drop_gradients() -> int:
    """Of all parameters; how many there are."""
    every = _every()
    for parameter in every:
        parameter.grad = None
    return len(every)
