"""The best member of a family for each datapoint, by gradient steps on its own ELBO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, transform_to

from pyro_vae.marginal.density import LogDensity
from pyro_vae.marginal.weights import base_of


def fit_elbo(log_joint: LogDensity, q: Any, num_steps: int, lr: float = 0.02, num_particles: int = 8) -> Any:
    """A distribution of q's family that maximizes every datapoint's E_q[log p(x, u) − log q(u)].

    The parameters of q (`loc` and `scale`, say) become free numbers of each datapoint, in units of q's own spread;
    Adam with a learning rate that falls to zero climbs the ELBO, as in Cremer, Li & Duvenaud (2018),
    https://arxiv.org/abs/1801.03558. The gradient leaves out the score of q, whose mean is zero: its noise vanishes as
    q comes near the posterior (Roeder, Wu & Duvenaud 2017, https://arxiv.org/abs/1703.09194).

    Args:
        log_joint: log p(x, u).
        q: distribution with batch_shape `[N]` and event_shape `[D]` that has `rsample`; left as it is.
        num_steps: gradient steps.
        lr: learning rate at the start: steps are that share of a standard deviation.
        num_particles: draws a step.

    Raises:
        NotImplementedError: if q's family, a flow say, has no parameters of its own.
    """
    start = {name: (c, value.detach()) for name, c, value in _parameters(q)}
    if not start:
        raise NotImplementedError(f"{type(q).__name__} has no parameters of its own")
    spread = q.stddev.detach()
    free = {
        name: torch.zeros_like(transform_to(c).inv(value), requires_grad=True) for name, (c, value) in start.items()
    }

    def member(moves: dict[str, Tensor]) -> Any:
        return _rebuild(q, {name: _moved(name, *start[name], moves[name], spread) for name in moves})

    optimizer = torch.optim.Adam(list(free.values()), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        candidate = member(free)
        u: Tensor = candidate.rsample((num_particles,))
        fixed = member({name: value.detach() for name, value in free.items()})
        loss = -(log_joint(u) - fixed.log_prob(u)).mean(0).sum()
        gradients = torch.autograd.grad(loss, list(free.values()))  # the model's own parameters get none
        for parameter, gradient in zip(free.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return member(free)


def _moved(name: str, constraint: Any, value: Tensor, move: Tensor, spread: Tensor) -> Tensor:
    """A parameter that starts at `value` after a `move` in units of q's spread."""
    if name == "loc":
        return value + spread * move
    transform = transform_to(constraint)
    if name == "scale_tril":
        return value @ transform(move)  # of a move 0 the identity
    return transform(transform.inv(value) + move)


def _parameters(q: Distribution) -> list[tuple[str, Any, Tensor]]:
    """Name, constraint and value of the parameters that `q` was made from, expanded to its batch."""
    base = base_of(q)
    names = [name for name in base.arg_constraints if name in base.__dict__ or name == "scale_tril"]
    return [(name, base.arg_constraints[name], getattr(base, name)) for name in names]


def _rebuild(q: Distribution, parameters: dict[str, Tensor]) -> Any:
    if isinstance(q, Independent):
        return type(q)(_rebuild(q.base_dist, parameters), q.reinterpreted_batch_ndims)
    family: Any = type(q)
    return family(**parameters, validate_args=False)
