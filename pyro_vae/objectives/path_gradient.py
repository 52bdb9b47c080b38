"""Gradients that reach the guide through its draws alone, not through log q(z | x)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.importance_weighted import IWAE, MultiSample
from pyro_vae.programs.trace import Program


class _PathGradient(MultiSample):
    """∇_θ = Σ_k a_k ∇_θ log p(x, z_k) and ∇_φ = Σ_k c_k (∂ log w_k / ∂z_k) (∂z_k / ∂φ)."""

    _draws: list[tuple[Tensor, Tensor]]

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """A and c, `[K, N]`."""
        raise NotImplementedError

    def surrogate(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """A scalar with these gradients: the path's is taken at leaves and then passed on to the draws."""
        a, c = self.coefficients((log_p - log_q).detach())
        draws, leaves = zip(*self._draws, strict=True)
        gradients = torch.autograd.grad((c * (log_p - log_q)).sum(), leaves, retain_graph=True)
        for leaf in leaves:
            leaf.requires_grad_(False)  # no parameters: nobody wants the gradient of what follows at them
        path = sum((g * z).sum() for g, z in zip(gradients, draws, strict=True))
        return (a * log_p).sum() + path

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        """Both programs at the draws, cut from the graph: log p and log q know them as leaves."""
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
        self._draws = []
        for name in trace.reparameterized_nodes:
            site: Any = trace.nodes[name]
            z, site["value"] = site["value"], site["value"].detach().requires_grad_()
            self._draws.append((z, site["value"]))
        return super()._get_trace(model, poutine.replay(guide, trace=trace), args, kwargs)


class StickingTheLanding(_PathGradient):
    """The ELBO, without the score ∇_φ log q(z | x), whose mean is zero: no noise is left where q is the posterior.

    Roeder, Wu & Duvenaud (2017), Sticking the landing, https://arxiv.org/abs/1703.09194.

    Args:
        num_particles: draws of z a datapoint.
    """

    name: ClassVar[str] = "sticking_the_landing"

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """1/K."""
        mean = torch.full_like(log_w, 1 / len(log_w))
        return mean, mean


class DReG(_PathGradient, IWAE):
    """The IWAE's bound with a gradient for φ whose signal-to-noise ratio grows with K: a = w̃, c = w̃², Σ_k w̃_k = 1.

    Tucker, Lawson, Gu & Maddison (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives,
    https://arxiv.org/abs/1810.04152, eq. 8; that the IWAE's falls is Rainforth et al. (2018), Tighter variational
    bounds are not necessarily better, https://arxiv.org/abs/1802.04537.

    Args:
        num_particles: K.
    """

    name: ClassVar[str] = "dreg"

    def coefficients(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized weights w̃, and w̃²."""
        weights = log_w.softmax(0)
        return weights, weights.square()
