"""Hamiltonian Monte Carlo along a path of densities, vectorized over chains and datapoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.programs.density import Evaluate

Path = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""π_β ∝ start^(1 − β) · joint^β: u `[K, N, D]` -> log-densities of start and joint `[K, N]`, then their gradients."""


STRONGEST = 100.0
"""Largest change of a momentum in half a leapfrog step, in its standard deviations."""

Scale = Callable[[Tensor], Tensor]
"""β -> L `[N, D, D]`, so that the mass matrix for π_β is (L Lᵀ)⁻¹."""


def path_between(start: Evaluate, joint: Evaluate) -> Path:
    """Return the path from a normalized density to log p(x, u)."""

    def path(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        start_density, start_grad = start(u)
        joint_density, joint_grad = joint(u)
        return start_density, joint_density, start_grad, joint_grad

    return path


def scale_between(scale: Tensor, scale_tril: Tensor) -> Scale:
    """Interpolate between a diagonal Gaussian's precision at β = 0 and another Gaussian's at β = 1.

    (1 − β) P₀ + β P₁ is the precision of π_β if both ends are Gaussian. A basis in which P₀ is the identity and P₁ is
    diagonal makes it diagonal for all β.

    Args:
        scale: standard deviations at β = 0, `[N, D]`.
        scale_tril: the Cholesky factor of the covariance at β = 1, `[N, D, D]`.
    """
    whitened = scale_tril.double() / scale.double().unsqueeze(-1)
    axes, spread, _ = torch.linalg.svd(whitened)
    basis, precision = (scale.unsqueeze(-1) * axes).to(scale_tril), spread.pow(-2).to(scale_tril)
    return lambda beta: basis * (1 - beta + beta * precision).rsqrt().unsqueeze(-2)


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
    path: Path, state: ChainState, beta: Tensor, step_size: Tensor, scale: Tensor, num_leapfrog: int
) -> tuple[ChainState, Tensor]:
    """Make an HMC transition that leaves π_β invariant.

    Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901, §5.3. The momentum p is standard
    normal in coordinates v with u = L v, so that the mass matrix is (L Lᵀ)⁻¹ (§4.1). Each chain multiplies the step
    size by a number between 0.5 and 1: in whitened coordinates all directions oscillate with about the same period,
    and trajectories of that length would end where they start (§3.2). A trajectory that meets a point where half a step
    changes the momentum by more than `STRONGEST` has diverged: it is rejected, before the model meets numbers that
    overflow. Since the points alone decide, this is reversible.

    Args:
        path: the densities.
        state: state of the chains.
        beta: position on the path.
        step_size: largest step sizes of the leapfrog integrator in units of L, `[N]`.
        scale: L, which need not be triangular: `[N, D, D]`, or `[K, N, D, D]` for another one in each chain.
        num_leapfrog: number of leapfrog steps.

    Returns:
        The new state and the probabilities of acceptance, `[K, N]`.
    """
    epsilon = (step_size * (0.5 + 0.5 * torch.rand_like(state.joint))).unsqueeze(-1)
    stable = torch.ones_like(state.joint, dtype=torch.bool)

    def kick(at: ChainState) -> Tensor:
        force = 0.5 * epsilon * _times(scale.mT, at.gradient(beta))
        stable.logical_and_((force.abs() < STRONGEST).all(-1))
        return torch.where(stable.unsqueeze(-1), force, 0.0)

    momentum, new = torch.randn_like(state.u), state
    p = momentum + kick(new)
    for step in range(num_leapfrog):
        u = new.u + epsilon * _times(scale, p)
        new = ChainState.at(path, torch.where(stable.unsqueeze(-1), u, state.u))
        force = kick(new)
        p = p + (2 * force if step < num_leapfrog - 1 else force)
    energy = state.log_density(beta) - 0.5 * momentum.square().sum(-1)
    new_energy = new.log_density(beta) - 0.5 * p.square().sum(-1)
    probability = torch.where(stable, (new_energy - energy).clamp(max=0).exp().nan_to_num(0.0), 0.0)
    return state.where(torch.rand_like(probability) < probability, new), probability


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    """Multiply `[N, D, D]` or `[K, N, D, D]` by v `[K, N, D]`."""
    if matrix.dim() > 3:
        return (matrix @ v.unsqueeze(-1)).squeeze(-1)
    return (matrix @ v.permute(1, 2, 0)).permute(2, 0, 1).contiguous()  # no copy of the matrix for each chain


def anneal(
    path: Path,
    u: Tensor,
    betas: Tensor,
    step_sizes: Tensor,
    scale: Scale,
    num_leapfrog: int,
    progress: Callable[[], Any],
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
        scale: mass matrices of the transitions. They and the step sizes must not depend on these chains.
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
            state, probability = transition(path, state, betas[t], step_sizes[t - 1], scale(betas[t]), num_leapfrog)
            acceptance += probability.mean(0) / max(1, len(betas) - 2)
        progress()
    return log_w, acceptance


def adapt_step_sizes(
    path: Path, u: Tensor, betas: Tensor, scale: Scale, num_leapfrog: int, target: float, progress: Callable[[], Any]
) -> Tensor:
    """Find step sizes `[T − 1, N]` that keep the acceptance of a pilot run near `target`.

    The weights of the run that uses them stay unbiased, since the step sizes do not depend on its chains.
    """
    state = ChainState.at(path, u)
    log_epsilon = torch.zeros_like(state.joint[0])
    for _ in range(15):  # find about the right size at the first temperature
        state, probability = transition(path, state, betas[1], log_epsilon.exp(), scale(betas[1]), num_leapfrog)
        log_epsilon = log_epsilon + 1.0 * (probability.mean(0) - target)
    table = []
    for beta in betas[1:-1]:
        state, probability = transition(path, state, beta, log_epsilon.exp(), scale(beta), num_leapfrog)
        log_epsilon = log_epsilon + 0.3 * (probability.mean(0) - target)
        table.append(log_epsilon.exp())
        progress()
    return torch.stack(table) if table else log_epsilon.new_empty((0, len(log_epsilon)))


def sample_posterior(
    evaluate: Evaluate,
    u: Tensor,
    scale_tril: Tensor,
    num_warmup: int,
    num_samples: int,
    num_leapfrog: int = 8,
    target: float = 0.8,
    progress: Callable[[], Any] = lambda: None,
    jump: Callable[[Path, ChainState], ChainState] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw from the posterior of each datapoint by HMC.

    In warmup a Robbins-Monro rule (Andrieu & Thoms 2008, Statistics and Computing 18) brings the acceptance of each
    datapoint's chains to `target`; the mean of the second half of its step sizes stays.

    Args:
        evaluate: log p(x, u) and its gradient, e.g. `partial(value_and_grad, log_joint)`.
        u: where the chains start, `[C, N, D]`.
        scale_tril: the `scale` of `transition`, e.g. of the Laplace approximation, `[N, D, D]`; `[C, N, D, D]` for
            chains that start at different modes.
        num_warmup: number of transitions that adapt the step sizes and are discarded.
        num_samples: T, the number of transitions that follow.
        num_leapfrog: leapfrog steps per transition.
        target: acceptance rate.
        progress: called after each transition.
        jump: moves the chains after each transition; it must leave the posterior invariant, e.g. `jump.jump`.

    Returns:
        The draws `[T, C, N, D]`, and the mean acceptance after warmup, `[N]`.
    """

    def path(u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        density, gradient = evaluate(u)
        return density, density, gradient, gradient

    state, draws = ChainState.at(path, u), []
    beta = torch.tensor(0.5, dtype=u.dtype, device=u.device)  # anywhere between the two ends, which are equal
    log_epsilon = torch.zeros_like(state.joint[0])
    average, acceptance = torch.zeros_like(log_epsilon), torch.zeros_like(log_epsilon)
    for t in range(num_warmup + num_samples):
        if t == num_warmup and num_warmup:
            log_epsilon = average / (num_warmup - num_warmup // 2)
        state, probability = transition(path, state, beta, log_epsilon.exp(), scale_tril, num_leapfrog)
        state = state if jump is None else jump(path, state)
        if t < num_warmup:
            log_epsilon = log_epsilon + (probability.mean(0) - target) / (1 + t) ** 0.5
            average = average + log_epsilon * (t >= num_warmup // 2)
        else:
            acceptance = acceptance + probability.mean(0) / num_samples
            draws.append(state.u)
        progress()
    return torch.stack(draws), acceptance
