"""Fitting a member of a family to each datapoint, by gradient steps on its ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.marginal.chain import Chain
from pyro_vae.marginal.families import Gaussian, opened
from pyro_vae.programs.density import LogDensity
from pyro_vae.programs.random_state import fork_rng

NUM_PARTICLES = 8

SMALL_RISE = 0.05
"""Nats by which a step may raise the ELBO of a member that counts as its family's best."""


def fit_elbo(
    log_joint: LogDensity,
    q: Any,
    num_steps: int,
    lr: float = 0.02,
    num_particles: int = NUM_PARTICLES,
    num_rounds: int = 1,
    on_step: Callable[[], Any] = lambda: None,
    eps: float = 1e-8,
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
        eps: of Adam, in nats per standard deviation: smaller gradients make shorter steps.

    Raises:
        NotImplementedError: if q's family has no parameters that can be optimized.
    """
    for _ in range(num_rounds):
        q = _climb(log_joint, q, max(1, num_steps // num_rounds), lr, num_particles, on_step, eps)
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


def still_rises(log_joint: LogDensity, q: Any, num_samples: int = 64) -> Tensor:
    """Return whether a step along the gradient raises the ELBO of q, `[N]`: then q is not its family's best member.

    A step is at most a standard deviation long; a quarter of it is tried, too. The gain, estimated with the same random
    numbers before and after the step, has to exceed `SMALL_RISE` and the 99 % quantile of the largest of all gains
    that are noise.

    Args:
        log_joint: log p(x, u).
        q: as for `fit_elbo`.
        num_samples: draws that estimate the gradient, and as many the gain.
    """
    moves, member = _opened(q)
    batches = [_gradient(log_joint, q, moves, member, NUM_PARTICLES) for _ in range(num_samples // NUM_PARTICLES)]
    step = [torch.stack(gradients).mean(0).nan_to_num().clamp(-1, 1) for gradients in zip(*batches, strict=True)]

    @torch.no_grad()
    def log_w(fraction: float) -> Tensor:
        moved = member([fraction * direction for direction in step])
        with fork_rng(step[0]):
            u = moved.sample((num_samples,))
        weights: Tensor = (log_joint(u) - moved.log_prob(u)).double()
        return weights

    before = log_w(0.0)
    N = before.shape[-1]
    z = -torch.special.ndtri(torch.tensor(0.01 / (2 * N), dtype=torch.float64)).item()
    rises = torch.zeros(N, dtype=torch.bool, device=before.device)
    for fraction in (0.25, 1.0):
        gain = log_w(fraction) - before
        noise = gain.std(0) / math.sqrt(num_samples)
        rises |= gain.mean(0) > (z * noise).clamp(min=SMALL_RISE)
    return rises


def _climb(
    log_joint: LogDensity,
    q: Any,
    num_steps: int,
    lr: float,
    num_particles: int,
    on_step: Callable[[], Any],
    eps: float,
) -> Any:
    moves, member = _opened(q)
    optimizer = torch.optim.Adam(moves, lr=lr, eps=eps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        for move, gradient in zip(moves, _gradient(log_joint, q, moves, member, num_particles), strict=True):
            move.grad = -gradient
        optimizer.step()
        schedule.step()
        on_step()
    with torch.no_grad():
        return member([move.detach() for move in moves])


def _gradient(
    log_joint: LogDensity, q: Any, moves: list[Tensor], member: Callable[[list[Tensor]], Any], num_particles: int
) -> tuple[Tensor, ...]:
    """Estimate the gradient of the ELBO of q after moves."""
    candidate = member(moves)
    u: Tensor = candidate.rsample((num_particles,))
    density = candidate if isinstance(q, AutoregressiveFlow) else member([move.detach() for move in moves])
    elbo = (log_joint(u) - density.log_prob(u)).mean(0).sum()
    return torch.autograd.grad(elbo, moves)  # not of the model's parameters


@torch.no_grad()
def _opened(q: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Return moves of zero for the parameters of q, and a function that returns q after moves."""
    if isinstance(q, Chain):
        moves, member = q.opened()
        return [move.requires_grad_() for move in moves], member
    free, build = opened(q)
    moves = [torch.zeros_like(parameter.start, requires_grad=True) for parameter in free]
    return moves, lambda moves: build(parameter.moved(move) for parameter, move in zip(free, moves, strict=True))
