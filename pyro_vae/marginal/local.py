"""The best member of a family for each datapoint, by gradient steps on its own ELBO."""

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
    """A distribution of q's family that maximizes every datapoint's E_q[log p(x, u) − log q(u)].

    The parameters of q (`loc` and `scale`, say) become free numbers of each datapoint, in units of q's own spread; of a
    mixture those of its components and its weights; of a flow the features that it is made from, by networks that stay
    as they are, and a location and scale after it. Adam with a learning rate that falls to zero climbs the ELBO, as in
    Cremer, Li & Duvenaud (2018), https://arxiv.org/abs/1801.03558. The gradient leaves out the score of q, whose mean
    is zero: its noise vanishes as q comes near the posterior (Roeder, Wu & Duvenaud 2017,
    https://arxiv.org/abs/1703.09194); but for flows, which know the density of their own draws alone at a low price.

    Args:
        log_joint: log p(x, u).
        q: distribution with batch_shape `[N]` and event_shape `[D]` that has `rsample`; left as it is.
        num_steps: gradient steps, of all rounds together.
        lr: learning rate at the start: steps are that share of a standard deviation.
        num_particles: draws a step.
        num_rounds: each starts from what the one before has found, in units of that one's spread: from far away two of
            150 steps end much nearer than one of 300. A flow, whose units stay, takes all steps in one.
        on_step: called after each step.

    Raises:
        NotImplementedError: if q's family has no parameters of its own.
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
        gradients = torch.autograd.grad(loss, moves)  # the model's own parameters get none
        for move, gradient in zip(moves, gradients, strict=True):
            move.grad = gradient
        optimizer.step()
        schedule.step()
        on_step()
    with torch.no_grad():
        return member(moves)


@dataclass(frozen=True)
class _Free:
    """A parameter that is to move from `value`; a location in units of `spread`."""

    name: str
    constraint: Any
    value: Tensor
    spread: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """`value`, of the shape that moves have."""
        unconstrained: Tensor = transform_to(self.constraint).inv(self.value)
        return unconstrained

    def moved(self, move: Tensor) -> Tensor:
        """The parameter after an unconstrained `move`."""
        transform = transform_to(self.constraint)
        if self.spread is not None:
            return self.value + self.spread * move
        if self.name == "scale_tril":
            return self.value @ transform(move)  # of a move 0 the identity
        result: Tensor = transform(self.start + move)
        return result


_DERIVED = ("probs", "covariance_matrix", "precision_matrix")
_KEPT = ("logits", "scale_tril")


def _opened(q: Any) -> tuple[list[_Free], Callable[[Iterator[Tensor]], Any]]:
    """The parameters that `q` was made from, expanded to its batch, and what makes such a one of others."""
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
        raise NotImplementedError(f"{type(q).__name__} has no parameters of its own")
    if hasattr(q, "base_dist"):
        return _opened(q.base_dist)
    names = [n for n in q.arg_constraints if n in _KEPT or (n in q.__dict__ and n not in _DERIVED)]
    if not names:
        raise NotImplementedError(f"{type(q).__name__} has no parameters of its own")
    free = [_Free(n, q.arg_constraints[n], getattr(q, n), q.stddev if n == "loc" else None) for n in names]
    return free, lambda values: type(q)(**{n: next(values) for n in names}, validate_args=False)


def _opened_flow(
    q: AutoregressiveFlow, head: Callable[[Tensor], AutoregressiveFlow]
) -> tuple[list[_Free], Callable[[Iterator[Tensor]], AutoregressiveFlow]]:
    """Of a flow: its features, and a location and scale after it, which features alone move by detours."""
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
