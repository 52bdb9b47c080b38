"""Fitting a member of a family to each datapoint, by gradient steps on its ELBO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.marginal.chain import Chain
from pyro_vae.marginal.families import Gaussian, opened
from pyro_vae.programs.density import LogDensity

NUM_PARTICLES = 8


def fit_elbo(
    log_joint: LogDensity,
    q: Any,
    num_steps: int,
    lr: float = 0.02,
    num_particles: int = NUM_PARTICLES,
    num_rounds: int = 1,
    on_step: Callable[[], Any] = lambda: None,
    trace: list[Tensor] | None = None,
) -> Any:
    """Find a distribution of q's family that maximizes E_q[log p(x, u) − log q(u)] of each datapoint.

    The parameters of q, e.g. `loc` and `scale`, are optimized for each datapoint, in units of q's spread. For a mixture
    these are the parameters of its components and its weights; for a flow the features that fixed networks make it
    from, and a location and scale after it; for a `Chain` offsets of the parameters of its sites. Adam, with a learning
    rate that falls to zero, maximizes the ELBO as in Cremer, Li & Duvenaud (2018), https://arxiv.org/abs/1801.03558.
    The gradient leaves out the score of q, whose mean is zero, so that its noise vanishes as q approaches the posterior
    (Roeder, Wu & Duvenaud 2017, https://arxiv.org/abs/1703.09194). Flows keep the score, since only the density of
    their own draws is cheap.

    Args:
        log_joint: log p(x, u).
        q: distribution with batch_shape `[N]`, event_shape `[D]` and `rsample`; it is not changed.
        num_steps: total number of gradient steps.
        lr: initial learning rate, in standard deviations per step.
        num_particles: draws per step.
        num_rounds: rounds of optimization. Each starts from the result of the previous one, in units of its spread:
            from far away, two rounds of 150 steps end much nearer than one of 300.
        on_step: called after each step.
        trace: receives an estimate of the ELBO `[N]` from each step.

    Raises:
        NotImplementedError: if q's family has no parameters that can be optimized.
    """
    for _ in range(num_rounds):
        q = _climb(log_joint, q, max(1, num_steps // num_rounds), lr, num_particles, on_step, trace)
    return q


def at_laplace(q: Any, loc: Tensor, precision: Tensor) -> Any:
    """Return the member of q's family closest to N(loc, precision⁻¹), to start from.

    A diagonal normal has the variances 1 / precision_ii, which maximize its ELBO if the posterior is that normal; one
    with full covariance is that normal. A normal of low rank, a mixture, a flow and a `Chain` come near.

    Args:
        q: as for `fit_elbo`.
        loc: `[N, D]`.
        precision: `[N, D, D]`.
    """
    if isinstance(q, Chain):
        return q.towards(loc, precision)
    free, build = opened(q)
    gaussian = Gaussian(loc, precision)
    return build(parameter.moved(parameter.move_to(gaussian)) for parameter in free)


def _climb(
    log_joint: LogDensity,
    q: Any,
    num_steps: int,
    lr: float,
    num_particles: int,
    on_step: Callable[[], Any],
    trace: list[Tensor] | None,
) -> Any:
    with torch.no_grad():
        moves, member = _movable(q)
    moves = [move.requires_grad_() for move in moves]
    optimizer = torch.optim.Adam(moves, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        candidate = member(moves)
        u: Tensor = candidate.rsample((num_particles,))
        density = candidate if isinstance(q, AutoregressiveFlow) else member([move.detach() for move in moves])
        elbo = (log_joint(u) - density.log_prob(u)).mean(0)
        gradients = torch.autograd.grad(-elbo.sum(), moves)  # not of the model's parameters
        for move, gradient in zip(moves, gradients, strict=True):
            move.grad = gradient
        optimizer.step()
        schedule.step()
        if trace is not None:
            trace.append(elbo.detach())
        on_step()
    with torch.no_grad():
        return member([move.detach() for move in moves])


def _movable(q: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Return moves of zero for the parameters of q, and a function that returns q after moves."""
    if isinstance(q, Chain):
        return q.opened()
    free, build = opened(q)
    moves = [torch.zeros_like(parameter.start) for parameter in free]
    return moves, lambda moves: build(parameter.moved(move) for parameter, move in zip(free, moves, strict=True))
