"""log p(x) by quadrature, for posteriors of few dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors

MAX_DIM = 3
"""Largest number of dimensions that are integrated."""

NODES = {1: (129, 257, 513, 1025), 2: (65, 129, 257, 513), 3: (33, 65)}
"""Nodes per dimension, refined until two successive grids agree."""

REACH = 200.0
"""Standard deviations up to which the grid extends in each direction."""

NEAR = 10.0
"""Standard deviations within which the density must not be NaN."""

MISSED = 0.01
"""Share of q that a grid may miss: it is too coarse for a mode that is much narrower than the others."""

TOLERANCE = 1e-3
"""Nats by which two successive grids may differ. The trapezoidal rule converges so fast that the finer grid's error is
much smaller."""


def quadrature(p: Posteriors, q: Mixture) -> tuple[Tensor, Tensor]:
    """Integrate p(x, u) over u by the trapezoidal rule on grids that become finer until they agree.

    The grid is centred and scaled by the moments of q. Its nodes are v = sinh(t) standard deviations away, with t
    evenly spaced: dense in the centre, and wide enough for heavy tails. The trapezoidal rule converges exponentially
    for such integrands (Trefethen & Weideman 2014, SIAM Review 56(3)).

    Args:
        p: N posteriors of at most `MAX_DIM` dimensions.
        q: where they have their mass.

    Returns:
        log p(x) `[N]`, and whether the last two grids agree, the mass near their border is negligible, and the last one
        integrates q to 1, `[N]`.
    """
    center, scale_tril = q.moments()
    D = center.shape[-1]
    value = torch.full_like(center[:, 0], math.nan, dtype=torch.float64)  # agrees with no integral
    converged = torch.zeros_like(value, dtype=torch.bool)
    for nodes in NODES[D]:
        index = (~converged).nonzero().squeeze(-1)
        integral, border, of_q = _integrate(p.rows(index), q.rows(index), center[index], scale_tril[index], nodes)
        agree = ((integral - value[index]).abs() < TOLERANCE) & (of_q.abs() < MISSED)
        converged[index] = agree & (border < integral + math.log(TOLERANCE))
        value[index] = integral
        if converged.all():
            break
    return value, converged


def _integrate(
    p: Posteriors, q: Mixture, center: Tensor, scale_tril: Tensor, nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logs of the integral over a grid, of the part of it from its border, and of q's integral, `[N]`."""
    D, reach = center.shape[-1], math.asinh(REACH)
    t = torch.linspace(-reach, reach, nodes, dtype=torch.float64, device=center.device)
    grid = torch.cartesian_prod(*[t] * D).reshape(-1, D)
    at_border = (grid.abs() > 0.95 * reach).any(-1)
    log_weight = grid.cosh().log().sum(-1) + D * math.log(2 * reach / (nodes - 1))
    log_det = scale_tril.double().diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total = border = of_q = torch.full_like(log_det, -math.inf)
    for part in torch.arange(len(grid), device=grid.device).split(list(p.blocks(len(grid)))):
        v = grid[part].sinh().to(center)
        u, weight = center + torch.einsum("nde,ke->knd", scale_tril, v), log_weight[part].unsqueeze(-1)
        density = p.log_prob(u).double()
        far = (v.abs() > NEAR).any(-1).unsqueeze(-1)  # where numbers may overflow; elsewhere a NaN stays one
        density = density.masked_fill(density.isnan() & far, -math.inf) + weight
        total = torch.logaddexp(total, density.logsumexp(0))
        border = torch.logaddexp(border, density.masked_fill(~at_border[part].unsqueeze(-1), -math.inf).logsumexp(0))
        of_q = torch.logaddexp(of_q, (q.log_prob(u).double() + weight).logsumexp(0))
    return total + log_det, border + log_det, of_q + log_det
