"""Importance sampling from a Laplace approximation of each datapoint's posterior: the default estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import compiled
from pyro_vae.distributions import CholeskyNormal
from pyro_vae.errors import integer, one_of, positive, share, true_false, true_false_auto
from pyro_vae.marginal.draws import Keeper, require_room_for_draws
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import GradientEstimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate, sample_sizes
from pyro_vae.marginal.laplace import laplace
from pyro_vae.marginal.local import NUM_PARTICLES, fit_elbo
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.pareto import FEW
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents, LogDensity, log_density_at
from pyro_vae.programs.memory import chunk_option, pairs_at_once
from pyro_vae.programs.progress import Shares
from pyro_vae.programs.trace import Program

GRADIENT = 3
"""Approximate cost of a gradient, in evaluations of the density."""
COMPARE = "compare with estimator=ais, which does not depend on a fitted proposal"


class Refined(GradientEstimator):
    """Importance sampling whose proposal is fitted to each datapoint's posterior.

    A quasi-Newton search finds the mode of p(z | x) from the guide's mean. The exact Hessian of log p(x, z) there is
    the precision of a full-covariance Student-t, mixed with the guide, or of a Gaussian if a pilot sample shows that
    the posterior is Gaussian; then the estimate is exact for any K. All datapoints are fitted at once, using only the
    density of the model and its gradients. `elbo` is the guide's. Laplace importance sampling goes back to Tierney &
    Kadane (1986), JASA 81(393).

    Args:
        num_samples: K, or a list of several K, for which `LogEvidence.curve` holds estimates from one set of samples.
        chunk_size: pairs (sample, datapoint) in memory at once; `auto` uses as many as fit into the cache.
        family: `gaussian`, `student_t`, or `auto`, which chooses for each datapoint by a pilot of 16 draws from the
            proposal and 16 from the guide.
        df: degrees of freedom of the Student-t.
        guide_weight: share of draws from the guide, in [0, 1). It limits the weights to 1/guide_weight times those of
            the guide, in case the mode misleads (Hesterberg 1995, Technometrics 37(2)).
        num_elbo_steps: gradient steps on the ELBO of each datapoint that improve its proposal.
        compile: True, False or `auto`, see `Estimator`.
        keep_draws: keep all draws and log-weights in `LogEvidence.draws`, for `LogEvidence.to_arviz`.

    Raises:
        BadInput: if an argument is out of range; when called, if the model's latents are discrete or masked.

    Example:
        >>> evidence = Refined(num_samples=100)(vae.model, vae.guide, x)
        >>> bool(evidence.se.max() < 0.1)
        True
    """

    name = "refined"

    def __init__(
        self,
        num_samples: int | Sequence[int] = 500,
        chunk_size: int | str = "auto",
        family: str = "auto",
        df: float = 5.0,
        guide_weight: float = 0.2,
        num_elbo_steps: int = 0,
        compile: bool | str = "auto",
        keep_draws: bool = False,
    ) -> None:
        self.sizes = sample_sizes(num_samples)
        self.num_samples = self.sizes[-1]
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)
        self.keep_draws = true_false("keep_draws", keep_draws)
        self.family = one_of("family", family, ("auto", "gaussian", "student_t"))
        self.df = positive("df", df)
        self.guide_weight = share("guide_weight", guide_weight)
        self.num_elbo_steps = integer("num_elbo_steps", num_elbo_steps)

    def advice(self, discrete: bool = False) -> str:
        """Advise better proposals: beyond a few hundred samples, more hardly help where a proposal misses mass."""
        steps = [f"estimator.num_elbo_steps={n}" for n in (50, 300) if n > self.num_elbo_steps]
        remedies = ["estimator.num_samples=500"] * (self.num_samples < FEW) + steps
        return f"set {', then '.join(remedies)}, or compare with estimator=ais" if remedies else COMPARE

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`."""
        latents = Latents.of(model, x, y)
        if self.keep_draws:
            require_room_for_draws(self.num_samples, guide, x, y)
        pairs = pairs_at_once(self.chunk_size, model, x, y)
        density, draw = compiled(log_density_at, self.compile), compiled(Latents.draw, self.compile)
        rows = max(1, pairs // 8)  # a Hessian needs 8 directions of each datapoint at once
        parts = [
            self._chunk(latents, model, guide, x_part, y_part, density, draw, max(1, pairs // len(x_part)), progress)
            for x_part, y_part in slices(rows, x, y)
        ]
        return replace(LogEvidence.cat(parts), elbo=guide_elbo(model, guide, x, y))

    def _chunk(
        self,
        latents: Latents,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None,
        density: Callable[..., Tensor],
        draw: Callable[..., Tensor],
        block: int,
        progress: Progress,
    ) -> LogEvidence:
        log_joint = latents.log_density(model, x, y)
        with torch.no_grad():
            start = latents.center(guide, x, y)
            variance = latents.variance(guide, x, y)
        fitted = GRADIENT * NUM_PARTICLES * len(x)  # the work of a step, in draws
        ticks = Shares(progress, len(x) * self.num_samples, self.num_elbo_steps * fitted + len(x) * self.num_samples)
        q = self.proposal(log_joint, start, variance, on_step=lambda: ticks(fitted))
        if self.family == "auto":
            heavy = torch.full_like(q.df, self.df)
            with torch.no_grad():
                far_out = replace(q, df=heavy).sample(16)
                elsewhere = latents.draw(guide, x, y, num_samples=16)  # the guide may cover other modes
                log_w, log_w_elsewhere = (log_joint(u) - q.log_prob(u) for u in (far_out, elsewhere))
            # Gaussian draws cannot show what they do not reach: test the fit with heavy tails and with the guide
            highest = torch.maximum(log_w.amax(0), log_w_elsewhere.amax(0))
            q = replace(q, df=heavy.masked_fill(highest - log_w.amin(0) < 0.5, math.inf))
        # draws from the guide would only add noise where the Gaussian is the posterior
        defensive = q.df.isfinite() | (self.family != "auto")
        guide_weight = self.guide_weight * defensive.to(start.dtype)

        keeper = Keeper() if self.keep_draws else None

        def blocks() -> Iterator[Tensor]:
            for done in range(0, self.num_samples, block):
                size = min(block, self.num_samples - done)
                with torch.no_grad():
                    u, log_q = q.draw(size)
                    if guide_weight.any():
                        from_guide = torch.rand(u.shape[:2], dtype=torch.float32, device=u.device) < guide_weight
                        u = torch.where(from_guide.unsqueeze(-1), draw(latents, guide, x, y, num_samples=size), u)
                        log_q = torch.logaddexp(
                            (1 - guide_weight).log() + q.log_prob(u),
                            guide_weight.log() + density(latents, guide, x, y, u),
                        )
                    log_w = density(latents, model, x, y, u) - log_q
                if keeper is not None:
                    keeper.add(log_w, latents.unpack(u)[0])
                yield log_w.double()
                ticks(log_w.numel())

        evidence = accumulate(blocks(), self.sizes, Accumulator.log_mean)
        return evidence if keeper is None else replace(evidence, draws=keeper.take())

    def proposal(
        self, log_joint: LogDensity, start: Tensor, variance: Tensor, on_step: Callable[[], Any] = lambda: None
    ) -> Mixture:
        """Fit the proposal to log p(x, u), starting at u = `start` with a guess of its `variance`, both `[N, D]`."""
        loc, scale_tril = laplace(log_joint, start, variance)
        q = CholeskyNormal(loc, scale_tril=scale_tril)
        if self.num_elbo_steps:
            q = fit_elbo(log_joint, q, self.num_elbo_steps, on_step=on_step)
        return Mixture.single(q.loc, q.scale_tril, self.df if self.family == "student_t" else math.inf)
