"""Pyro's NUTS, to compare the guide with the posterior of a few datapoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from pyro_vae.distributions import CholeskyNormal
from pyro_vae.errors import BadInput, datapoints, positive_int
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import GradientEstimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate
from pyro_vae.marginal.pareto import FEW
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.progress import Shares
from pyro_vae.programs.trace import Program


class NUTS(GradientEstimator):
    """Importance sampling from a Gaussian with the mean and covariance of NUTS draws from p(z | x).

    It runs one chain per datapoint (Hoffman & Gelman 2014, JMLR 15), which is slow. Use it for a few datapoints, to see
    how far the guide is from the posterior. `extra` holds `loc_error`, the largest distance of the guide's mean from
    the posterior's in posterior standard deviations; `scale_ratio`, the guide's standard deviation over the
    posterior's, geometric mean over dimensions; `correlation`, the largest absolute correlation between two dimensions
    of the posterior, which a diagonal guide cannot represent.

    Args:
        num_samples: K, the number of importance samples.
        num_draws: draws of NUTS, after `num_draws` // 2 warmup draws.
        max_data: reject more datapoints than this.

    Example:
        >>> evidence = NUTS(num_draws=20)(vae.model, vae.guide, x[:1])
        >>> list(evidence.extra)
        ['loc_error', 'scale_ratio', 'correlation']
    """

    name = "nuts"

    def __init__(self, num_samples: int = 500, num_draws: int = 500, max_data: int = 20) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        self.num_draws = positive_int("num_draws", num_draws)
        self.max_data: int = positive_int("max_data", max_data)

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Reject more than `max_data` datapoints, too few draws, and latents that are discrete or masked."""
        super().check(model, guide, x, y)
        if len(x) > self.max_data:
            raise BadInput(
                f"estimator=nuts runs a chain for each of {datapoints(len(x))}: use it in pyro_vae.evaluate with "
                f"num_data={self.max_data} or fewer, or set max_data={len(x)}"
            )
        if self.num_draws <= (dim := Latents.of(model, x, y).dim):
            raise BadInput(f"num_draws={self.num_draws} is too small for a covariance in {dim} dimensions: raise it")

    def advice(self, discrete: bool = False) -> str:
        """Advise a proposal with heavier tails, and more samples if there are few."""
        auto = "use estimator=auto, whose proposals have heavier tails than this Gaussian"
        return f"set estimator.num_samples=500, or {auto}" if self.num_samples < FEW else auto

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`."""
        parts = []
        for x_one, y_one in slices(1, x, y):
            ticks = Shares(progress, self.num_samples, self.num_warmup + self.num_draws)
            parts.append(self._one(model, guide, x_one, y_one, ticks))
        return replace(LogEvidence.cat(parts), elbo=guide_elbo(model, guide, x, y))

    @property
    def num_warmup(self) -> int:
        """Number of draws that adapt the sampler and are discarded."""
        return max(10, self.num_draws // 2)

    def draws(
        self, model: Program, x: Tensor, y: Tensor | None = None, on_draw: Callable[[], Any] = lambda: None
    ) -> Tensor:
        """Draw from one datapoint's posterior with NUTS, `[num_draws, D]`, unconstrained; call `on_draw` after each."""
        latents = Latents.of(model, x, y)
        f = latents.log_density(model, x, y)

        def potential(parameters: dict[str, Tensor]) -> Tensor:
            return -f(parameters["u"].reshape(1, 1, -1)).sum()

        kernel = pyro.infer.NUTS(potential_fn=potential)
        mcmc = pyro.infer.MCMC(
            kernel,
            num_samples=self.num_draws,
            warmup_steps=self.num_warmup,
            initial_params={"u": x.new_zeros(latents.dim)},
            disable_progbar=True,
            hook_fn=lambda *args: on_draw(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mcmc.run()
        return mcmc.get_samples()["u"].detach()

    def _one(
        self, model: Program, guide: Program, x: Tensor, y: Tensor | None, on_draw: Callable[[], Any]
    ) -> LogEvidence:
        latents = Latents.of(model, x, y)
        posterior = self.draws(model, x, y, on_draw)
        loc, covariance = posterior.mean(0), torch.atleast_2d(posterior.mT.cov())
        scale = covariance.diagonal().sqrt()
        # the draws underestimate the spread a little: widen it
        q = CholeskyNormal(loc.unsqueeze(0), scale_tril=torch.linalg.cholesky(1.1 * covariance).unsqueeze(0))
        with torch.no_grad():
            u = q.sample((self.num_samples,))
            log_w = latents.log_density(model, x, y)(u) - q.log_prob(u)
            own = latents.draw(guide, x, y, num_samples=2000)[:, 0]
        correlation = (covariance / scale / scale.unsqueeze(-1)).tril(-1).abs().amax()
        extra = {
            "loc_error": ((latents.center(guide, x, y)[0] - loc) / scale).abs().amax(),
            "scale_ratio": (own.std(0) / scale).log().mean().exp(),
            "correlation": correlation,
        }
        evidence = accumulate([log_w.double()], [self.num_samples], Accumulator.log_mean)
        return replace(evidence, extra={name: value.detach().reshape(1) for name, value in extra.items()})
