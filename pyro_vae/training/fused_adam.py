"""Adam with little to do between two calls of torch's kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.errors import within
from pyro_vae.training.burda_code import start_squares


class _Group(NamedTuple):
    """A group of parameters, all with a state.

    Attributes:
        settings: its entry in `param_groups`, which schedules change.
        parameters: the parameters.
        means: their mean gradients.
        squares: their mean squared gradients.
        steps: their numbers of steps, which are elements of `all_steps`.
        all_steps: these numbers of steps in one tensor, which a single operation increases.
    """

    settings: dict[str, Any]
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    all_steps: Tensor


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`, optionally with another start of its mean squared gradients.

    Its steps compute the same numbers, but collect the state of the parameters only once. For small models, torch's
    `step` spends a third of its time on this in every step.

    Kingma & Ba (2015), Adam: a method for stochastic optimization, https://arxiv.org/abs/1412.6980.

    Args:
        params: as for `torch.optim.Adam`.
        lr: step size.
        betas: decay of the means of gradient and squared gradient.
        eps: added to the root of the latter.
        weight_decay: L2 penalty.
        first_square: start of the mean squared gradients, as in `burda_code`.
    """

    _groups: list[_Group] | None = None
    """The groups, once all parameters have a state."""

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
        if within("first_square", first_square, low=0):
            self.register_step_pre_hook(lambda adam, args, kwargs: start_squares(adam, first_square))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step; return the result of `closure`, if given."""
        if self._groups is None:
            self._groups = self._collect()
        groups = self._groups or []
        gradients = [[p.grad for p in group.parameters if p.grad is not None] for group in groups]
        complete = all(
            len(of_group) == len(group.parameters) for of_group, group in zip(gradients, groups, strict=True)
        )
        if not groups or not complete or closure is not None or hasattr(self, "grad_scale"):
            return super().step(closure)
        with torch.no_grad():
            for group, of_group in zip(groups, gradients, strict=True):
                group.all_steps.add_(1)
                beta1, beta2 = group.settings["betas"]
                torch._fused_adam_(
                    group.parameters,
                    of_group,
                    group.means,
                    group.squares,
                    [],
                    group.steps,
                    lr=group.settings["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=group.settings["weight_decay"],
                    eps=group.settings["eps"],
                    amsgrad=False,
                    maximize=False,
                )
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a result of `state_dict()`."""
        self._groups = None
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters."""
        self._groups = None
        super().add_param_group(param_group)

    def _collect(self) -> list[_Group] | None:
        """Return the groups, or None if a parameter has no state or a group mixes dtypes or devices."""
        groups = []
        for settings in self.param_groups:
            parameters = settings["params"]
            states: list[dict[str, Tensor]] = [self.state.get(p, {}) for p in parameters]
            if not all(states) or len({(p.dtype, p.device) for p in parameters}) > 1:
                return None
            all_steps = torch.stack([state["step"] for state in states])
            for state, step in zip(states, all_steps.unbind(), strict=True):
                state["step"] = step
            means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            groups.append(_Group(settings, parameters, means, squares, steps, all_steps))
        return groups
