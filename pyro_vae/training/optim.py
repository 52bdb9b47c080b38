"""One torch optimizer for all parameters, with the interface of Pyro's optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.errors import BadInput, FailedRun, one_line, positive, shown, within
from pyro_vae.training.burda_code import start_squares
from pyro_vae.training.interrupt import half_imported, import_whole
from pyro_vae.training.optim_settings import check_optimizer, check_schedule
from pyro_vae.training.optim_state import restore

OF_ARGUMENTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError)
"""Raised by torch's optimizers and schedules for invalid arguments, sometimes late."""


STEPS, NEGLIGIBLE, SMALLEST_EPS = 128, 1e-30, 1e-10
"""Every so many steps, `FusedAdam` sets smaller means to zero, unless its eps is smaller than this one."""


@dataclass
class _States:
    """States of parameters, as Adam's kernel takes them.

    Attributes:
        ids: `id` of each parameter.
        means: means of their gradients.
        squares: means of their squared gradients.
        steps: numbers of their steps, in one tensor, since an addition to each takes 30 µs.
        each_step: its elements.
    """

    ids: list[int]
    means: list[Tensor]
    squares: list[Tensor]
    steps: Tensor
    each_step: list[Tensor]

    def belong_to(self, params: list[Tensor], state: Mapping[Tensor, Any]) -> bool:
        """Return whether an optimizer with this `state` still uses them for `params`."""
        if list(map(id, params)) != self.ids:
            return False
        for p, mean, square, step in zip(params, self.means, self.squares, self.each_step, strict=True):
            its = state.get(p)
            if not its or its["step"] is not step or its["exp_avg"] is not mean or its["exp_avg_sq"] is not square:
                return False
        return True


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`, optionally with another start of its mean squared gradients.

    The mean of a gradient that is zero from some step on, such as that of a dead unit, decays to numbers that some
    processors are slow to compute with (`pyro_vae.objectives.negligible`), and rounding keeps it from reaching zero.
    Such means are set to zero: they do not change parameters.

    Hooks of steps are not called.

    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980.

    Args:
        params: as for `torch.optim.Adam`.
        lr: step size.
        betas: decay of the means of gradient and squared gradient.
        eps: added to the root of the latter.
        weight_decay: L2 penalty.
        first_square: start of the mean squared gradients, as in `burda_code`.
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
        self._states: dict[int, _States] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        return {**super().__getstate__(), "first_square": self.first_square}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state that was copied or loaded."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._states = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step; return the closure's result."""
        result = None if closure is None else torch.enable_grad()(closure)()
        if self.first_square:
            start_squares(self, self.first_square)
        kinds = {(p.device, p.dtype) for group in self.param_groups for p in group["params"]}
        if len(kinds) > 1 or any(group["amsgrad"] for group in self.param_groups):
            super().step()
        else:
            for i in range(len(self.param_groups)):
                self._fused_step(i)
        _drop_negligible(self)
        return result

    def _fused_step(self, i: int) -> None:
        """Step a group of parameters by the kernel; torch's code around it would take a twentieth of a step of 3 ms."""
        group = self.param_groups[i]
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        states = self._states.get(i)
        if states is None or not states.belong_to(params, self.state):
            states = self._states[i] = self._collect(group)
        states.steps.add_(1)
        beta1, beta2 = group["betas"]
        numbers = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
        lists: Any = params, [p.grad for p in params], states.means, states.squares, [], states.each_step
        torch._fused_adam_(*lists, beta1=beta1, beta2=beta2, **numbers)

    def _collect(self, group: dict[str, Any]) -> _States:
        """Collect the states of parameters that have gradients, and initialize those of new ones."""
        lists: list[list[Tensor]] = [[], [], [], [], [], []]
        self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        params, _, means, squares, _, counters = lists
        steps = torch.stack(counters)
        each_step = list(steps.unbind())
        for p, step in zip(params, each_step, strict=True):
            self.state[p]["step"] = step
        return _States(list(map(id, params)), means, squares, steps, each_step)


vars(FusedAdam)["step"].hooked = True  # else torch wraps it for hooks and for its profiler


def _drop_negligible(adam: Optimizer) -> None:
    """Set negligible means to zero in some steps, which the saved number of steps determines."""
    state: Any = next(iter(adam.state.values()), {})
    if not state or state["step"].device.type != "cpu" or state["step"].item() % STEPS:
        return
    for group in adam.param_groups:
        for p in group["params"] if group["eps"] >= SMALLEST_EPS else ():
            state = adam.state.get(p, {})  # empty without a gradient so far
            for mean in (state[name] for name in ("exp_avg", "exp_avg_sq") if name in state):
                mean.copy_(nn.functional.hardshrink(mean, NEGLIGIBLE))


class JointOptim(PyroOptim):
    """A `PyroOptim` that steps all parameters with one torch optimizer.

    `PyroOptim` makes an optimizer for each parameter, which is slower and can only clip the gradient of each parameter
    separately. Here `clip_norm` bounds the norm of the whole gradient.

    Args:
        optimizer: makes the optimizer from parameters, such as `functools.partial(torch.optim.Adam, lr=1e-3)`.
        scheduler: makes a learning-rate schedule from that optimizer; `end_epoch` steps it.
        clip_norm: bound on the gradient's L2 norm.

    Raises:
        BadInput: if torch rejects the optimizer's or schedule's arguments, or clip_norm is not positive.
        FailedRun: if an interrupt has left torch partially imported.

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
        if isinstance(scheduler, Mapping):  # as pyro.optim.Adam is given them
            raise BadInput(f"scheduler={shown(scheduler)} is a dict: give settings by partial(OPTIMIZER, lr=0.001)")
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
        check_optimizer(optimizer)
        check_schedule(scheduler)
        import_whole("torch._dynamo")  # which torch's first optimizer imports
        try:  # torch checks the arguments only once it has a parameter: do so before the data are read
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
                for loss in (0.0, 1.0):  # the second is compared with the first
                    schedule.step(loss)
            elif schedule is not None:
                schedule.step()
        except (*OF_ARGUMENTS, ImportError) as error:
            # a name missing from a module means that its import failed, not that an argument is invalid
            if isinstance(error, ImportError) or (
                isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)
            ):
                raise half_imported(error) from error
            settings = {
                f"{name}.{key}": value
                for name, make in given.items()
                for key, value in getattr(make, "keywords", {}).items()
            }
            raise BadInput(f"{one_line(error)}: {_advice(one_line(error), settings)}") from error

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Make a step on `params`, whose `.grad` is set, and set `.grad` to None.

        Pyro's SVI would fill gradients that are left with zeros, and the next step would add to them.
        """
        if self.optimizer is None:
            self._start(params)
        elif isinstance(params, Sized) and len(params) > len(self.names):
            known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            new = next(pyro.get_param_store().param_name(p) for p in params if id(p) not in known)
            raise BadInput(f"the parameter {new} is new: JointOptim needs all parameters in its first step")
        assert self.optimizer is not None
        if self.clip_norm is not None:
            every = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(every, self.clip_norm)
        self.optimizer.step(*args, **kwargs)
        for group in self.optimizer.param_groups:  # `zero_grad` would take longer: the profiler watches it
            for parameter in group["params"]:
                parameter.grad = None

    def _start(self, params: Iterable[Tensor]) -> None:
        # SVI passes a set, whose order differs between processes: sort by name
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
            FailedRun: if the schedule has ended, as `OneCycleLR` does.
        """
        try:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(-val_elbo)
            elif self.scheduler is not None:
                self.scheduler.step()
        except OF_ARGUMENTS as error:
            raise FailedRun(f"the scheduler cannot continue: {one_line(error)}") from error

    def get_state(self) -> dict[str, Any]:
        """Return names, optimizer and schedule state; its tensors change with the next step, so save or copy them."""
        if self.optimizer is None:
            return self._waiting or {}
        scheduler = {} if self.scheduler is None else self.scheduler.state_dict()
        return {"names": self.names, "optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Continue from a value of `get_state()`, starting with the next step."""
        self._waiting = state_dict or None
        self.optimizer = self.scheduler = None


def _advice(message: str, settings: dict[str, Any]) -> str:
    """Advise to change the setting whose value torch's message ends with, or else one of all."""
    value = message.rpartition(": ")[-1]
    blamed = [
        key for key, given in settings.items() if value in map(str, given if isinstance(given, Sequence) else [given])
    ]
    listed = ", ".join(f"{key}={shown(settings[key])}" for key in blamed or settings)
    if blamed:
        return f"change {listed}" if len(blamed) == 1 else f"change one of {listed}"
    return f"change one of {listed}, or choose another optimizer"
