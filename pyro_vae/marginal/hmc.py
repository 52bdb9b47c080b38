"""Hamiltonian Monte Carlo along a path of densities, vectorized over chains and datapoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.programs.density import Latents, value_and_grad
from pyro_vae.programs.trace import Program

Path = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""π_β ∝ start^(1 − β) · joint^β: u `[K, N, D]` -> log-densities of start and joint `[K, N]`, then their gradients."""


def both_ends(
    latents: Latents, start: Program, model: Program, x: Tensor, y: Tensor | None, u: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate both ends of the path at u: a program that proposes u, and log p(x, u)."""
    start_density, start_grad = value_and_grad(latents.log_density(start, x, y), u)
    joint, joint_grad = value_and_grad(latents.log_density(model, x, y), u)
    return start_density, joint, start_grad, joint_grad


@dataclass(frozen=True)
class ChainState:
    """Positions u `[K, N, D]` of chains, with both ends' log-densities `[K, N]` and gradients `[K, N, D]` there."""

    u: Tensor
    start: Tensor
    joint: Tensor
    start_grad: Tensor
    joint_grad: Tensor

    @classmethod
    def at(cls, path: Path, u: Tensor) -> ChainState:
        """Evaluate the path's ends at u."""
        return cls(u, *path(u))

    def log_density(self, beta: Tensor) -> Tensor:
        """Return log π_β up to a constant, `[K, N]`."""
        return (1 - beta) * self.start + beta * self.joint

    def gradient(self, beta: Tensor) -> Tensor:
        """Return the gradient of log π_β, `[K, N, D]`."""
        return (1 - beta) * self.start_grad + beta * self.joint_grad

    def where(self, accept: Tensor, other: ChainState) -> ChainState:
        """Return a state with the chains of `other` where `accept` `[K, N]` is true, else those of this state."""
        wide = accept.unsqueeze(-1)
        return ChainState(
            torch.where(wide, other.u, self.u),
            torch.where(accept, other.start, self.start),
            torch.where(accept, other.joint, self.joint),
            torch.where(wide, other.start_grad, self.start_grad),
            torch.where(wide, other.joint_grad, self.joint_grad),
        )


def transition(
    path: Path, state: ChainState, beta: Tensor, step_size: Tensor, num_leapfrog: int
) -> tuple[ChainState, Tensor]:
    """Make an HMC transition that leaves π_β invariant.

    Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901, §5.3.

    Args:
        path: the densities.
        state: state of the chains.
        beta: position on the path.
        step_size: step sizes of the leapfrog integrator, `[N]`.
        num_leapfrog: number of leapfrog steps.

    Returns:
        The new state and the probabilities of acceptance, `[K, N]`.
    """
    epsilon = step_size.unsqueeze(-1)
    momentum = torch.randn_like(state.u)
    p, new = momentum, state
    for _ in range(num_leapfrog):
        p = p + 0.5 * epsilon * new.gradient(beta)
        new = ChainState.at(path, new.u + epsilon * p)
        p = p + 0.5 * epsilon * new.gradient(beta)
    energy = state.log_density(beta) - 0.5 * momentum.square().sum(-1)
    new_energy = new.log_density(beta) - 0.5 * p.square().sum(-1)
    probability = (new_energy - energy).clamp(max=0).exp().nan_to_num(0.0)
    return state.where(torch.rand_like(probability) < probability, new), probability


def anneal(
    path: Path, u: Tensor, betas: Tensor, step_sizes: Tensor, num_leapfrog: int, progress: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """Compute annealed importance weights along β_0, …, β_T, starting at u ~ π_{β_0} `[K, N, D]`.

    log w = Σ_t (β_t − β_{t−1}) (log joint(u_{t−1}) − log start(u_{t−1})), where u_t comes from an HMC transition for
    π_{β_t}: Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008. With β rising from 0 to
    1, w is an unbiased estimate of p(x); with β falling from 1 to 0 from exact posterior draws, of 1 / p(x).

    Args:
        path: the path from the proposal to log p(x, u).
        u: start of the chains.
        betas: the temperatures, `[T + 1]`.
        step_sizes: step sizes of the T − 1 transitions, `[T − 1, N]`.
        num_leapfrog: leapfrog steps per transition.
        progress: called after each temperature.

    Returns:
        log w `[K, N]`, and the mean acceptance `[N]`.
    """
    state = ChainState.at(path, u)
    log_w = torch.zeros_like(state.joint, dtype=torch.float64)
    acceptance = torch.zeros_like(state.joint[0])
    for t in range(1, len(betas)):
        log_w += (betas[t] - betas[t - 1]).double() * (state.joint.double() - state.start.double())
        if t < len(betas) - 1:
            state, probability = transition(path, state, betas[t], step_sizes[t - 1], num_leapfrog)
            acceptance += probability.mean(0) / max(1, len(betas) - 2)
        progress()
    return log_w, acceptance


def adapt_step_sizes(
    path: Path, u: Tensor, betas: Tensor, num_leapfrog: int, target: float, progress: Callable[[], Any]
) -> Tensor:
    """Find step sizes `[T − 1, N]` that keep the acceptance of a pilot run near `target`.

    The weights of the run that uses them stay unbiased, since the step sizes do not depend on its chains.
    """
    state = ChainState.at(path, u)
    log_epsilon = torch.full_like(state.joint[0], -2.3)
    for _ in range(15):  # find about the right size at the first temperature
        state, probability = transition(path, state, betas[1], log_epsilon.exp(), num_leapfrog)
        log_epsilon = log_epsilon + 1.0 * (probability.mean(0) - target)
    table = []
    for beta in betas[1:-1]:
        state, probability = transition(path, state, beta, log_epsilon.exp(), num_leapfrog)
        log_epsilon = log_epsilon + 0.3 * (probability.mean(0) - target)
        table.append(log_epsilon.exp())
        progress()
    return torch.stack(table) if table else log_epsilon.new_empty((0, len(log_epsilon)))
