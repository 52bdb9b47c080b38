"""One torch optimizer for all parameters, in the shape that Pyro's SVI expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.errors import BadInput, one_line, positive


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`: the same numbers and state, with a third of the Python around its kernel.

    Torch counts the steps of each parameter on its own, and adds one to each; here those that have gone together share
    one count.

    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980.

    Args:
        params: as for `torch.optim.Adam`.
        lr: step size.
        betas: decay of the means of gradient and squared gradient.
        eps: added to the root of the latter.
        weight_decay: L2 penalty.
    """

    _shared = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; torch makes the state in the first."""
        with_gradients = ([p for p in group["params"] if p.grad is not None] for group in self.param_groups)
        groups = [(group, params) for group, params in zip(self.param_groups, with_gradients, strict=True) if params]
        moving = [p for _, params in groups for p in params]
        alike = len({(p.device, p.dtype) for p in moving}) == 1
        if closure is not None or not alike or not all(self.state[p] for p in moving):
            self._share(False)
            return super().step(closure)
        if not self._shared:
            self._share(True)
        counts = {id(count): count for count in (self.state[p]["step"] for p in moving)}
        self._leave_behind(counts)
        torch._foreach_add_(list(counts.values()), 1)
        for group, params in groups:
            states = [self.state[p] for p in params]
            torch._fused_adam_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """As torch's, which can go on from it."""
        self._share(False)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._share(False)

    def _share(self, shared: bool) -> None:
        """Let equal counts be one tensor, or each parameter have its own."""
        counts: dict[float, Tensor] = {}
        for state in self.state.values():
            if state:
                own = state["step"].clone()
                state["step"] = counts.setdefault(own.item(), own) if shared else own
        self._shared = shared

    def _leave_behind(self, counts: dict[int, Tensor]) -> None:
        """Parameters without a gradient, which stay where they are, keep the counts as they are."""
        copies: dict[int, Tensor] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None and (count := self.state[p].get("step")) is not None and id(count) in counts:
                    self.state[p]["step"] = copies.setdefault(id(count), count.clone())

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
        self.clip_norm = None if clip_norm is None else positive("trainer.clip_norm", clip_norm)
        self.optimizer: Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self.names: list[str] = []
        self.watches_validation = False
        self._waiting: dict[str, Any] | None = None
        given = {"optimizer": optimizer, "scheduler": scheduler}
        try:  # torch checks the arguments only when it has a parameter: give it one now, not after the data
            trial = optimizer([torch.zeros(1)])
            lr = trial.param_groups[0]["lr"]
            if isinstance(lr, bool) or not math.isfinite(lr):
                raise ValueError(f"Invalid learning rate: {lr}")
            schedule = None if scheduler is None else scheduler(trial)
            trial.step()
            self.watches_validation = isinstance(schedule, ReduceLROnPlateau)
            if schedule is not None and not self.watches_validation:
                schedule.step()
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            settings = {name: getattr(make, "keywords", {}) for name, make in given.items()}
            listed = ", ".join(
                f"{name}.{key}={value}" for name, pairs in settings.items() for key, value in pairs.items()
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
            if self._waiting["names"] != self.names:
                raise BadInput("the optimizer's saved state belongs to other parameters")
            self.optimizer.load_state_dict(self._waiting["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(self._waiting["scheduler"])
            self._waiting = None

    def end_epoch(self, val_elbo: float) -> None:
        """Step the schedule; `ReduceLROnPlateau` watches the validation loss −`val_elbo`."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-val_elbo)
        elif self.scheduler is not None:
            self.scheduler.step()

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
