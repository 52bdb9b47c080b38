"""Posterior modes and curvatures, vectorized over datapoints."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pyro_vae.programs.density import Evaluate, LogDensity, hessian, value_and_grad


def positive_definite(precision: Tensor) -> Tensor:
    """Make `precision` `[..., D, D]` positive definite by replacing its eigenvalues by their absolute values.

    This is the metric of the saddle-free Newton method (Dauphin et al. 2014, https://arxiv.org/abs/1406.2572).
    Eigenvalues below a hundredth of the median, or lost in the rounding of the largest, are raised to it. A curvature
    that is not finite, e.g. because a rate overflowed, becomes the identity: the weights of such a proposal show that
    it does not fit.
    """
    finite = precision.isfinite().all(-1).all(-1)[..., None, None]
    precision = torch.where(finite, precision, torch.eye(precision.shape[-1]).to(precision))
    _, info = torch.linalg.cholesky_ex(precision.flip((-2, -1)))  # as `scale_tril_of` does
    bad = info > 0
    if not bad.any():
        return precision
    values, vectors = torch.linalg.eigh(precision[bad])
    values = values.abs()
    info = torch.finfo(values.dtype)
    floor = (0.01 * values.median(-1, keepdim=True).values).maximum(100 * info.eps * values.amax(-1, keepdim=True))
    values = values.maximum(floor).clamp_min(info.tiny)
    fixed = precision.clone()
    fixed[bad] = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return fixed


def find_mode(
    evaluate: Evaluate, u: Tensor, B: Tensor, max_steps: int = 50, tolerance: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Find modes of a log-density by damped quasi-Newton ascent from u `[N, D]`, or from S starts u `[S, N, D]`.

    BFGS (Nocedal & Wright 2006, Numerical Optimization, eq. 6.17). If a step does not raise f enough, a step a quarter
    as long follows.

    Args:
        evaluate: log p(x, u) up to a constant and its gradient, at u `[k, N, D]`.
        u: starting point.
        B: initial metric, a guess of the inverse curvature of −f, `[N, D, D]`, or `[S, N, D, D]`.
        max_steps: largest number of evaluations of f and its gradient.
        tolerance: stop when a Newton step would gain less than half of it, in nats. The mode is then √tolerance
            posterior standard deviations away.

    Returns:
        u, and the gradient of f there.
    """
    value, grad = _at(evaluate, u)
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    length = torch.ones_like(value)
    for _ in range(max_steps):
        direction = (B @ grad.unsqueeze(-1)).squeeze(-1)
        decrement = (grad * direction).sum(-1)
        if not (decrement > tolerance).any():
            break
        s = length.unsqueeze(-1) * direction
        new_value, new_grad = _at(evaluate, u + s)
        better = new_value >= value + 1e-4 * length * decrement  # Armijo; False for NaN
        length = torch.where(better, (2 * length).clamp_max(1.0), length / 4)
        change = grad - new_grad  # of −f's gradient
        curvature = (s * change).sum(-1)
        usable = better & (curvature > 1e-10)
        rho = torch.where(usable, 1 / curvature, 0.0)[..., None, None]
        left = eye - rho * s.unsqueeze(-1) * change.nan_to_num().unsqueeze(-2)
        B = torch.where(usable[..., None, None], left @ B @ left.mT + rho * s.unsqueeze(-1) * s.unsqueeze(-2), B)
        u = torch.where(better.unsqueeze(-1), u + s, u)
        value, grad = torch.where(better, new_value, value), torch.where(better.unsqueeze(-1), new_grad, grad)
    return u, grad


def laplace(f: LogDensity, u: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian to the mode of f and the curvature there, which is exact where f is quadratic.

    Args:
        f: log p(x, u) up to a constant.
        u: starting point, `[N, D]`.
        variance: a guess of the posterior's variance, `[N, D]`.

    Returns:
        The location `[N, D]` and scale_tril `[N, D, D]`.
    """
    u, grad = find_mode(partial(value_and_grad, f), u, torch.diag_embed(variance))
    scale_tril, step, decrement = newton(f, u, grad)
    if (decrement > 0.1).any():  # the guess misled: continue with the curvature itself
        u, grad = find_mode(partial(value_and_grad, f), u, scale_tril @ scale_tril.mT)
        scale_tril, step, decrement = newton(f, u, grad)
    return u + torch.where((decrement < 0.1).unsqueeze(-1), step, 0.0), scale_tril


def newton(f: LogDensity, u: Tensor, grad: Tensor, damping: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the curvature's scale_tril at u, the Newton step from there, and twice its gain in nats, `[..., N]`.

    `damping`, `[..., N]`, is added to the curvature in each direction.
    """
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    damping = torch.as_tensor(damping, dtype=u.dtype, device=u.device)[..., None, None]
    scale_tril = scale_tril_of(positive_definite(-hessian(f, u)) + damping * eye)
    step = (scale_tril @ (scale_tril.mT @ grad.unsqueeze(-1))).squeeze(-1)
    return scale_tril, step, (grad * step).sum(-1)


def _at(evaluate: Evaluate, u: Tensor) -> tuple[Tensor, Tensor]:
    value, grad = evaluate(u.reshape(-1, *u.shape[-2:]))
    return value.reshape(u.shape[:-1]), grad.reshape(u.shape)


def scale_tril_of(precision: Tensor) -> Tensor:
    """Return the lower triangular L with L Lᵀ = precision⁻¹, `[..., D, D]`."""
    # the Cholesky factor of the flipped matrix is that of the inverse, flipped and transposed
    L = torch.linalg.cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return torch.linalg.solve_triangular(L, eye, upper=False)
