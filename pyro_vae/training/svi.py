"""`pyro.infer.SVI` without overhead in its step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.infer
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae.compilation.compiled import Compiled, TakeOnly
from pyro_vae.compilation.gradients import owned, with_gradients
from pyro_vae.compilation.kernels import OF_PROCESS, Kernels
from pyro_vae.errors import one_of
from pyro_vae.objectives import Objective
from pyro_vae.parallel.collectives import mean, world_size
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.sleef import touch_constants
from pyro_vae.programs.trace import Program
from pyro_vae.training.precision import BFloat16Products

PRECISIONS = ("float32", "bf16-mixed")


class NotFinite(ArithmeticError):
    """A step was omitted because its loss or gradient is not finite."""


def reported_loss(objective: Objective) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a function for `SVI` that computes the objective's loss and a report.

    The loss is −bound per datapoint, so that step size and clipping do not depend on the batch size. The report is a
    vector of the loss and of Σ_n of ELBO and log-likelihood, in nats.
    """

    def loss(model: Program, guide: Program, x: Tensor, y: Tensor | None, variant: Hashable) -> tuple[Tensor, Tensor]:
        bound = objective.bound(model, guide, x, y)
        value = bound.loss / len(x)
        return value, torch.stack([value.detach(), bound.elbo, bound.log_likelihood])

    return loss


class SVI(pyro.infer.SVI):
    """`pyro.infer.SVI` with a loss whose results stay on the device.

    Pyro's step fills gradients with zeros and reads the loss; this one drops them and returns tensors.

    Args:
        model: Pyro program.
        guide: Pyro program.
        optim: steps all parameters of the param store.
        loss: `loss(model, guide, *args)` -> a scalar, or a tuple of a scalar and other tensors.
        precision: of matrix products: `float32`, or `bf16-mixed` (`BFloat16Products`).
        finite: the numbers that a step checks: `loss`, `gradient`. This synchronizes a GPU.

    Raises:
        BadInput: if the precision is unknown.
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
        touch_constants()
        self.finite = finite
        bf16 = {"context": BFloat16Products} if precision == "bf16-mixed" else {}
        self.gradients: Callable[..., Any] = with_gradients(loss, **bf16)
        """Returns the results of the loss, the parameters and their gradients."""

    def step(self, *args: Any, weight: float = 1.0, **kwargs: Any) -> list[Tensor]:
        """Make a step; return the detached results of the loss.

        Args:
            *args: of the loss.
            weight: of this process in the mean loss of all processes, whose gradient the step follows. Results other
                than the loss are those of this process.
            **kwargs: of the loss.

        Raises:
            NotFinite: if a number in `finite` is not; nothing is updated then, apart from buffers unless the gradient
                is in `finite`.
        """
        before = _drop_gradients()  # frees memory for the next ones
        restore = self._keep_buffers() if "gradient" in self.finite else lambda: None
        values, parameters, gradients = self.gradients(self.model, self.guide, *args, **kwargs)
        if world_size() == 1:
            gradients = owned(gradients)
        else:
            values[0], *gradients = mean([values[0], *gradients], weight)
        if "loss" in self.finite and not math.isfinite(values[0].item()):
            restore()
            raise NotFinite(f"the loss is {values[0].item()}")
        if "gradient" in self.finite and not nn.utils.get_total_norm(gradients).isfinite():
            restore()
            raise NotFinite("the gradient is not finite")
        every = every_parameter()
        if len(every) > before:
            _drop_gradients()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optim(every)
        return [value.clone() for value in values]  # the next step may write over them

    def dry_run(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Compute the loss and its gradient, without effect; return the parameters that have one."""
        with self.without_effect(*args):
            _, parameters, _ = self.gradients(self.model, self.guide, *args, **kwargs)
        return parameters

    @contextmanager
    def without_effect(self, *args: Any) -> Iterator[None]:
        """Keep buffers, and random generators on the devices of the arguments, as they are."""
        restore = self._keep_buffers()
        try:
            with fork_rng(*args):
                yield
        finally:
            restore()

    def _keep_buffers(self) -> Callable[[], None]:
        """Copy the buffers of the programs' modules; return a function that restores them."""
        owners = [getattr(program, "__self__", program) for program in (self.model, self.guide)]
        buffers = [b for owner in owners if isinstance(owner, nn.Module) for b in owner.buffers()]
        before = [buffer.clone() for buffer in buffers]

        def restore() -> None:
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)

        return restore

    def compile(
        self,
        dry_run: Callable[[], None],
        kernels: Kernels | None = OF_PROCESS,
        take_only: TakeOnly = Compiled.take_only,
    ) -> None:
        """Compile the loss and its gradient for arguments like those in `dry_run`.

        Calls with others, such as a smaller batch, keep running eagerly. For `kernels`, see `Compiled`.
        """
        compiled = Compiled(self.gradients, keep=False, kernels=kernels)
        self.gradients = compiled
        take_only(compiled, dry_run)


def every_parameter() -> Collection[Tensor]:
    """Return all parameters in Pyro's store, unconstrained, once each: modules may share some."""
    return {id(parameter): parameter for _, parameter in pyro.get_param_store().named_parameters()}.values()


def _drop_gradients() -> int:
    """Drop the gradients of all parameters; return their number."""
    every = every_parameter()
    for parameter in every:
        parameter.grad = None
    return len(every)
