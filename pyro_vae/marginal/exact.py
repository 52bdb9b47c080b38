"""The exact log p(x) of linear-Gaussian models, the reference for all other estimators."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pyro_vae.errors import BadInput, positive_int
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import STAGES, LogEvidence
from pyro_vae.marginal.prior import prior_of
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents, hessian, value_and_grad
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.trace import Program, base_of, trace

GAUSSIANS = (Normal, MultivariateNormal)
NOT_LINEAR = (
    "estimator=exact needs a linear-Gaussian model (network.hidden=[], a Gaussian prior, likelihood=gaussian with a "
    "fixed or learned scale): use estimator=auto, which is exact there and close elsewhere"
)


NUM_POINTS = 32
"""Draws from the posterior, and as many from the prior, at which the quadratic form is compared with the density."""


class Exact(Estimator):
    """Computes log p(x) = log p(x, û) + (D/2) log 2π − ½ log det P where log p(x, u) is quadratic in u.

    û is its maximum and P its negative Hessian. This is Laplace's formula, exact for linear-Gaussian models such as
    probabilistic PCA (Tipping & Bishop 1999, JRSS B 61(3)). Other models are rejected.

    Args:
        num_samples: reported as K; the computation does not use it.
        chunk_size: pairs (direction of the Hessian, datapoint) in memory at once.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x, y=None):  # x ~ N(0, I + 1)
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)
        >>> def guide(x, y=None):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        >>> Exact()(model, guide, torch.zeros(1, 2)).log_px  # −log 2π − ½ log 3
        tensor([-2.3872], dtype=torch.float64)
    """

    name = "exact"

    def __init__(self, num_samples: int = 1, chunk_size: int = 4096) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        self.chunk_size = positive_int("chunk_size", chunk_size)

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Reject models whose log p(x, u) is not quadratic in u."""
        super().check(model, guide, x, y)
        x, y = next(slices(2, x, y))
        with torch.no_grad():
            sites = trace(prior_of(model), x, y, num_samples=1).nodes.values()
        # the Hessian of a sharp likelihood hides that of the prior: look at the prior itself
        if not all(isinstance(base_of(site["fn"]), GAUSSIANS) for site in sites if site["type"] == "sample"):
            raise BadInput(NOT_LINEAR)
        self._chunk(model, x, y)

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Compute log p(x) for x `[N, ...]`; without noise, `se` is 0 and `ess` infinite."""
        n, log_px = max(1, self.chunk_size // 8), []
        for x_part, y_part in slices(n, x, y):
            log_px.append(self._chunk(model, x_part, y_part))
            progress(len(log_px[-1]) * self.num_samples)
        value = torch.cat(log_px)
        zero = torch.zeros_like(value)
        return LogEvidence(
            log_px=value,
            se=zero,
            ess=zero + math.inf,
            pareto_k=zero - math.inf,
            elbo=guide_elbo(model, guide, x, y),
            num_samples=self.num_samples,
            extra={"log_px_lower": value},
            reliable=value.isfinite(),
            stage=torch.full_like(value, STAGES.index("exact"), dtype=torch.long),
        )

    def _chunk(self, model: Program, x: Tensor, y: Tensor | None) -> Tensor:
        latents = Latents.of(model, x, y)
        f = latents.log_density(model, x, y)
        origin = x.new_zeros((len(x), latents.dim))
        elsewhere = torch.randn_like(origin)
        P = -hessian(f, origin)
        change = (hessian(f, elsewhere) + P).abs()
        sd = P.diagonal(dim1=-2, dim2=-1).clamp_min(0).rsqrt()  # scale of the entries
        if not (sd.unsqueeze(-1) * change * sd.unsqueeze(-2) < 1e-3).all():
            raise BadInput(NOT_LINEAR)
        L, info = torch.linalg.cholesky_ex(P.double())
        if info.any():
            raise BadInput(NOT_LINEAR)
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_2pi = latents.dim * math.log(2 * math.pi)
        u = origin
        for _ in range(2):  # from the origin alone, value and gain cancel and lose up to a nat in float32
            value, gradient = (part[0].double() for part in value_and_grad(f, u.unsqueeze(0)))
            step = torch.cholesky_solve(gradient.unsqueeze(-1), L).squeeze(-1)
            gain = 0.5 * (gradient * step).sum(-1)  # log p(x, û) − log p(x, u)
            u = u + step.to(u.dtype)
        with fork_rng(x), torch.no_grad():  # piecewise linear models look linear in the two places above
            noise = torch.randn((NUM_POINTS, *u.shape, 1), dtype=L.dtype, device=L.device)
            near = u + torch.linalg.solve_triangular(L.mT, noise, upper=True).squeeze(-1).to(u.dtype)
            for points in (near, latents.draw(prior_of(model), x, y, num_samples=NUM_POINTS)):
                drop = 0.5 * (L.mT @ (points - u).double().unsqueeze(-1)).square().sum((-2, -1))
                error = (f(points).double() - (value + gain - drop)).abs()
                if not (error < 0.01 + 1e-3 * drop + 1e-5 * value.abs()).all():
                    raise BadInput(NOT_LINEAR)
        return value + gain + 0.5 * (log_2pi - log_det)
