"""Gradients that reach the guide only through its draws, not through log q(z | x)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.objectives.importance_weighted import IWAE, MultiSample
from pyro_vae.objectives.negligible import without_negligible
from pyro_vae.objectives.objective import Traces
from pyro_vae.programs.trace import Program

DRAW = "draw"
"""Key in a site's `infer`: the draw as a function of φ, of which the site's value is a detached copy."""


class _PathGradient(MultiSample):
    """∇_θ = Σ_k a_k ∇_θ log p(x, z_k) and ∇_φ = Σ_k c_k (∂ log w_k / ∂z_k) (∂z_k / ∂φ)."""

    traces_guide_twice: ClassVar[bool] = True

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and c, both `[K, N]`."""
        raise NotImplementedError

    def surrogate(self, log_p: Tensor, log_q: Tensor, traces: Traces) -> Tensor:
        """Return a scalar with these gradients: ∂ log w / ∂z is computed at detached z, then passed on to the draws."""
        a, c = self.coefficients((log_p - log_q).detach())
        sites: list[Any] = [site for site in traces[1].nodes.values() if DRAW in (site.get("infer") or {})]
        leaves = [site["value"] for site in sites]
        gradients = torch.autograd.grad((c * (log_p - log_q)).sum(), leaves, retain_graph=True)
        for leaf in leaves:
            leaf.requires_grad_(False)  # they are not parameters
        path = sum((g * site["infer"][DRAW]).sum() for g, site in zip(gradients, sites, strict=True))
        return (a * log_p).sum() + path

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Traces:
        """Trace both programs at detached draws, which are leaves of log p and log q."""
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
        for name in trace.reparameterized_nodes:
            site: Any = trace.nodes[name]
            site["infer"] = {**site["infer"], DRAW: site["value"]}
            site["value"] = site["value"].detach().requires_grad_()
        return super()._get_trace(model, poutine.replay(guide, trace=trace), args, kwargs)


class StickingTheLanding(_PathGradient):
    """The ELBO without the score ∇_φ log q(z | x), whose mean is zero: its noise vanishes where q is the posterior.

    Roeder, Wu & Duvenaud (2017), Sticking the landing, https://arxiv.org/abs/1703.09194.

    Args:
        num_particles: draws of z per datapoint.

    Example:
        >>> bound = StickingTheLanding().bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "sticking_the_landing"

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1/K."""
        mean = torch.full_like(log_w, 1 / len(log_w))
        return mean, mean


class DReG(_PathGradient, IWAE):
    """The IWAE's bound with a gradient for φ whose signal-to-noise ratio grows with K: a = w̃, c = w̃², Σ_k w̃_k = 1.

    Tucker, Lawson, Gu & Maddison (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives,
    https://arxiv.org/abs/1810.04152, eq. 8. The IWAE's ratio falls with K: Rainforth et al. (2018), Tighter
    variational bounds are not necessarily better, https://arxiv.org/abs/1802.04537.

    Args:
        num_particles: K.

    Example:
        >>> bound = DReG(num_particles=10).bound(vae.model, vae.guide, x)
        >>> bound.loss.shape, bool(bound.elbo < 0)
        (torch.Size([]), True)
    """

    name: ClassVar[str] = "dreg"

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalized weights w̃, and w̃²."""
        weights = without_negligible(log_w).softmax(0)
        return weights, weights.square()
