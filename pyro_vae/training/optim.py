"""One torch optimizer for all parameters, in the shape that Pyro's SVI expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.errors import BadInput, FailedRun, integer, one_line, positive, positive_ints, shown, within
from pyro_vae.training.interrupt import half_imported, import_whole
from pyro_vae.training.optim_state import restore

OPTIONS = ("amsgrad", "maximize", "decoupled_weight_decay")
"""Of `torch.optim.Adam`; a group that has them is torch's to step."""


OF_ARGUMENTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError)
"""What torch's optimizers and schedules raise at arguments that they cannot use, some of them late."""


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`: the same numbers and state, with half the Python around its kernel.

    Hooks before and after a step are not called.

    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980.

    Args:
        params: as for `torch.optim.Adam`.
        lr: step size.
        betas: decay of the means of gradient and squared gradient.
        eps: added to the root of the latter.
        weight_decay: L2 penalty.
        first_square: what the mean of the squared gradients starts from. Above 0, steps are short until gradients of
            that root mean square would be forgotten: a warm-up of 1 / (1 − betas[1]) steps, where they are smaller.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        first_square: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)
        self.first_square = within("first_square", first_square, low=0)
        self._step_supports_amp_scaling = False  # a GradScaler divides the gradients itself, and leaves steps out

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; torch makes the state in the first."""
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        if self.first_square:
            for p in (p for _, params in groups for p in params if not self.state.get(p)):
                square = torch.full_like(p, self.first_square)
                step = torch.zeros((), device=p.device)
                self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": square}
        begun = all(self.state.get(p) for _, params in groups for p in params)
        if closure is not None or not begun or any(any(group[o] for o in OPTIONS) for group in self.param_groups):
            return super().step(closure)
        for group, params in groups:
            states = [self.state[p] for p in params]
            adam(
                params,
                grads=[p.grad for p in params],
                exp_avgs=[state["exp_avg"] for state in states],
                exp_avg_sqs=[state["exp_avg_sq"] for state in states],
                max_exp_avg_sqs=[],
                state_steps=[state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return None

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it in a profiler's record


class JointOptim(PyroOptim):
    """A `PyroOptim` that steps every parameter with one torch optimizer.

    `PyroOptim` makes an optimizer for each parameter, so that a norm can only be clipped parameter by
    parameter and a step pays Python's price for each. Here `clip_norm` bounds the norm of the whole gradient.

    Args:
        optimizer: makes the optimizer from parameters, `functools.partial(torch.optim.Adam, lr=1e-3)` say.
        scheduler: makes a learning-rate schedule from that optimizer; `end_epoch` steps it.
        clip_norm: bound on the gradient's L2 norm.

    Raises:
        BadInput: if torch refuses the optimizer's or schedule's arguments, or the clip_norm is not above 0.
        FailedRun: if an interrupt has left torch half imported.

    Example:
        >>> from functools import partial
        >>> optim = JointOptim(partial(torch.optim.Adam, lr=1e-3), clip_norm=10.0)
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(optimizer, {})
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.names: list[str] = []
        self.watches_validation = False
        self._waiting: dict[str, Any] | None = None
        given = {"optimizer": optimizer, "scheduler": scheduler}
        _check_schedule(scheduler)
        import_whole("torch._dynamo")  # which torch's first optimizer imports
        try:  # torch checks the arguments only when it has a parameter: give it one now, not after the data
            parameter = torch.zeros(1)
            parameter.grad = torch.zeros(1)
            trial = optimizer([parameter])
            lr = trial.param_groups[0]["lr"]
            if isinstance(lr, bool) or not math.isfinite(lr):
                raise ValueError(f"Invalid learning rate: {lr}")
            schedule = None if scheduler is None else scheduler(trial)
            trial.step()
            self.watches_validation = isinstance(schedule, ReduceLROnPlateau)
            if isinstance(schedule, ReduceLROnPlateau):
                for loss in (0.0, 1.0):  # it compares
                    schedule.step(loss)
            elif schedule is not None:
                schedule.step()
        except (*OF_ARGUMENTS, ImportError) as error:
            # a name missing from a module means that its import failed, not that an argument is wrong
            if isinstance(error, ImportError) or (
                isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)
            ):
                raise half_imported(error) from error
            settings = {name: getattr(make, "keywords", {}) for name, make in given.items()}
            listed = ", ".join(
                f"{name}.{key}={shown(value)}" for name, pairs in settings.items() for key, value in pairs.items()
            )
            raise BadInput(f"{one_line(error)}: mend one of {listed}") from error

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """One step on `params`, which carry their gradients."""
        if self.optimizer is None:
            self._start(params)
        assert self.optimizer is not None
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.clip_norm)
        self.optimizer.step(*args, **kwargs)

    def _start(self, params: Iterable[Tensor]) -> None:
        # SVI hands over a set, whose order differs between processes: sort by name
        store = pyro.get_param_store()
        named = sorted((str(store.param_name(p)), p) for p in params)
        self.names = [name for name, _ in named]
        self.optimizer = self.make_optimizer([p for _, p in named])
        if self.make_scheduler is not None:
            self.scheduler = self.make_scheduler(self.optimizer)
        if self._waiting is not None:
            restore(self.optimizer, self.scheduler, self.make_optimizer, self._waiting, self.names)
            self._waiting = None

    def end_epoch(self, val_elbo: float) -> None:
        """Step the schedule; `ReduceLROnPlateau` watches the validation loss −`val_elbo`.

        Raises:
            FailedRun: if it has come to its end, as `OneCycleLR` does.
        """
        try:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(-val_elbo)
            elif self.scheduler is not None:
                self.scheduler.step()
        except OF_ARGUMENTS as error:
            raise FailedRun(f"the scheduler cannot go on: {one_line(error)}") from error

    def get_state(self) -> dict[str, Any]:
        """Names, optimizer and schedule state: live tensors, to be saved or copied at once."""
        if self.optimizer is None:
            return self._waiting or {}
        scheduler = {} if self.scheduler is None else self.scheduler.state_dict()
        return {"names": self.names, "optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Continue from `get_state()`'s value; takes effect at the next step."""
        self._waiting = state_dict or None
        self.optimizer = self.scheduler = None


def _check_schedule(scheduler: Any) -> None:
    """Refuse settings that torch takes without a word, and does not do.

    Raises:
        BadInput: if there are any.
    """
    settings = getattr(scheduler, "keywords", {})
    for name, value in settings.items():
        key = f"scheduler.{name}"
        if name in ("gamma", "factor"):
            positive(key, value)
        elif name in ("step_size", "patience", "cooldown", "T_max", "total_iters"):
            integer(key, value, low=name in ("step_size", "T_max"))
        elif name == "milestones":
            positive_ints(key, value)
