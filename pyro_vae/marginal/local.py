"""Fitting a member of a family to each datapoint, by gradient steps on its ELBO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, TransformedDistribution, constraints, transform_to
from torch.distributions.transforms import AffineTransform

from pyro_vae.distributions import AutoregressiveFlow
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
) -> Any:
    """Find a distribution of q's family that maximizes E_q[log p(x, u) − log q(u)] of each datapoint.

    The parameters of q, e.g. `loc` and `scale`, are optimized for each datapoint, in units of q's spread. For a mixture
    these are the parameters of its components and its weights; for a flow the features that fixed networks make it
    from, and a location and scale after it. Adam, with a learning rate that falls to zero, maximizes the ELBO as in
    Cremer, Li & Duvenaud (2018), https://arxiv.org/abs/1801.03558. The gradient leaves out the score of q, whose mean
    is zero, so that its noise vanishes as q approaches the posterior (Roeder, Wu & Duvenaud 2017,
    https://arxiv.org/abs/1703.09194). Flows keep the score, since only the density of their own draws is cheap.

    Args:
        log_joint: log p(x, u).
        q: distribution with batch_shape `[N]`, event_shape `[D]` and `rsample`; it is not changed.
        num_steps: total number of gradient steps.
        lr: initial learning rate, in standard deviations per step.
        num_particles: draws per step.
        num_rounds: rounds of optimization. Each starts from the result of the previous one, in units of its spread:
            from far away, two rounds of 150 steps end much nearer than one of 300. Flows use one round.
        on_step: called after each step.

    Raises:
        NotImplementedError: if q's family has no parameters that can be optimized.
    """
    rounds = 1 if isinstance(q, AutoregressiveFlow) else num_rounds
    for _ in range(rounds):
        q = _climb(log_joint, q, max(1, num_steps // rounds), lr, num_particles, on_step)
    return q


def _climb(
    log_joint: LogDensity, q: Any, num_steps: int, lr: float, num_particles: int, on_step: Callable[[], Any]
) -> Any:
    with torch.no_grad():
        free, build = _opened(q)
    moves = [torch.zeros_like(parameter.start, requires_grad=True) for parameter in free]

    def member(moves: list[Tensor]) -> Any:
        return build(parameter.moved(move) for parameter, move in zip(free, moves, strict=True))

    optimizer = torch.optim.Adam(moves, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        candidate = member(moves)
        u: Tensor = candidate.rsample((num_particles,))
        density = candidate if isinstance(q, AutoregressiveFlow) else member([move.detach() for move in moves])
        loss = -(log_joint(u) - density.log_prob(u)).mean(0).sum()
        gradients = torch.autograd.grad(loss, moves)  # not of the model's parameters
        for move, gradient in zip(moves, gradients, strict=True):
            move.grad = gradient
        optimizer.step()
        schedule.step()
        on_step()
    with torch.no_grad():
        return member(moves)


@dataclass(frozen=True)
class _Free:
    """A parameter to optimize, starting from `value`; a location moves in units of `spread`."""

    name: str
    constraint: Any
    value: Tensor
    spread: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """`value` in unconstrained space, with the shape of moves."""
        unconstrained: Tensor = transform_to(self.constraint).inv(self.value)
        return unconstrained

    def moved(self, move: Tensor) -> Tensor:
        """Return the parameter after an unconstrained `move`."""
        transform = transform_to(self.constraint)
        if self.spread is not None:
            return self.value + self.spread * move
        if self.name == "scale_tril":
            return self.value @ transform(move)  # the identity for a move of 0
        result: Tensor = transform(self.start + move)
        return result


_DERIVED = ("probs", "covariance_matrix", "precision_matrix")
_KEPT = ("logits", "scale_tril")


def _opened(q: Any) -> tuple[list[_Free], Callable[[Iterator[Tensor]], Any]]:
    """Return the parameters of `q`, expanded to its batch, and a function that builds a `q` from new values."""
    if isinstance(q, Independent):
        free, build = _opened(q.base_dist)
        return free, lambda values: type(q)(build(values), q.reinterpreted_batch_ndims)
    if isinstance(q, MixtureSameFamily):
        weights, build_weights = _opened(q.mixture_distribution)
        components, build_components = _opened(q.component_distribution)
        return weights + components, lambda values: type(q)(build_weights(values), build_components(values))
    if isinstance(q, AutoregressiveFlow) and q.head is not None:
        return _opened_flow(q, q.head)
    if isinstance(q, TransformedDistribution):
        raise NotImplementedError(f"{type(q).__name__} has no parameters to optimize")
    if hasattr(q, "base_dist"):
        return _opened(q.base_dist)
    names = [n for n in q.arg_constraints if n in _KEPT or (n in q.__dict__ and n not in _DERIVED)]
    if not names:
        raise NotImplementedError(f"{type(q).__name__} has no parameters to optimize")
    free = [_Free(n, q.arg_constraints[n], getattr(q, n), q.stddev if n == "loc" else None) for n in names]
    return free, lambda values: type(q)(**{n: next(values) for n in names}, validate_args=False)


def _opened_flow(
    q: AutoregressiveFlow, head: Callable[[Tensor], AutoregressiveFlow]
) -> tuple[list[_Free], Callable[[Iterator[Tensor]], AutoregressiveFlow]]:
    """Return a flow's features with a location and scale after it, which features alone reach slowly."""
    draws = q.sample((100,))
    center, spread = draws.mean(0), draws.std(0)
    unit = q.features.square().mean().sqrt().clamp(min=1e-3)

    def build(values: Iterator[Tensor]) -> AutoregressiveFlow:
        flow, loc, scale = head(next(values)), next(values), next(values)
        after = AffineTransform(loc - scale * center, scale, event_dim=1, cache_size=1)
        return AutoregressiveFlow(flow.base_dist, [*flow.transforms, after])

    return [
        _Free("features", constraints.real, q.features, unit),
        _Free("loc", constraints.real, center, spread),
        _Free("scale", constraints.positive, torch.ones_like(spread)),
    ], build
