"""Annealed importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import compiled
from pyro_vae.errors import BadInput, one_of, positive, positive_int, true_false_auto
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import GradientEstimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate
from pyro_vae.marginal.hmc import adapt_step_sizes, anneal, both_ends
from pyro_vae.marginal.pareto import FEW, MIN_SAMPLES
from pyro_vae.marginal.prior import prior_of
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.memory import chunk_option, pairs_at_once
from pyro_vae.programs.progress import Shares
from pyro_vae.programs.trace import Program


class AIS(GradientEstimator):
    """Estimates log p̂(x) = log (1/K) Σ_k w_k from chains annealed from the guide or the prior to the posterior.

    Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008; for decoder-based models Wu,
    Burda, Salakhutdinov & Grosse (2017), https://arxiv.org/abs/1611.04273. p̂(x) is unbiased, so log p̂(x) is a lower
    bound in expectation, which tightens with more temperatures. A pilot run of the same length finds HMC's step size
    for each temperature and datapoint. `elbo` is the guide's; `extra` holds the mean `acceptance` of each datapoint.

    Args:
        num_samples: K, the number of chains per datapoint.
        num_temperatures: T, the number of steps of β from 0 to 1.
        num_leapfrog: leapfrog steps per transition.
        start: where chains start, `guide` or `prior`.
        target_acceptance: acceptance rate that the pilot run aims at.
        chunk_size: chains in memory at once; `auto` uses as many as fit into the cache.
        compile: True, False or `auto`, see `Estimator`.

    Raises:
        BadInput: if an argument is out of range; when called, if the model's latents are discrete or shared.
    """

    name = "ais"

    def __init__(
        self,
        num_samples: int = 16,
        num_temperatures: int = 200,
        num_leapfrog: int = 5,
        start: str = "guide",
        target_acceptance: float = 0.7,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
    ) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        self.num_temperatures = positive_int("num_temperatures", num_temperatures)
        self.num_leapfrog = positive_int("num_leapfrog", num_leapfrog)
        self.start = one_of("start", start, ("guide", "prior"))
        self.target_acceptance = positive("target_acceptance", target_acceptance)
        if self.target_acceptance >= 1:
            raise BadInput(f"target_acceptance={target_acceptance} must lie below 1")
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)

    def advice(self, discrete: bool = False) -> str:
        """Advise more temperatures: the variance of log w falls as 1/T (Neal 2001); if k̂ is rough, more samples."""
        temperatures = f"set estimator.num_temperatures={4 * self.num_temperatures}"
        if self.num_samples < 16:
            return f"set estimator.num_samples=16, then {temperatures}"
        is_rough = MIN_SAMPLES <= self.num_samples < FEW
        return f"set estimator.num_samples={FEW}, then {temperatures}" if is_rough else temperatures

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`; `progress` counts finished chains."""
        return self.annealed(model, guide, x, y, progress)

    def annealed(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None,
        progress: Progress,
        posterior_draws: Tensor | None = None,
    ) -> LogEvidence:
        """Estimate log p(x), with exact `posterior_draws` `[N, D]` also from above (see `chunk`)."""
        latents, n = Latents.of(model, x, y), max(1, pairs_at_once(self.chunk_size, model, x, y) // self.num_samples)
        ends, start = compiled(both_ends, self.compile), guide if self.start == "guide" else prior_of(model)
        parts = [
            self.chunk(latents, model, start, x_part, y_part, ends, progress, u_part)
            for x_part, y_part, u_part in slices(n, x, y, posterior_draws)
        ]
        return replace(LogEvidence.cat(parts), elbo=guide_elbo(model, guide, x, y))

    def betas(self, x: Tensor) -> Tensor:
        """Return 0 = β_0 < … < β_T = 1, `[T + 1]`: a rescaled sigmoid, dense at both ends."""
        s = torch.sigmoid(torch.linspace(-4, 4, self.num_temperatures + 1, dtype=torch.float32, device=x.device))
        return (s - s[0]) / (s[-1] - s[0])

    def chunk(
        self,
        latents: Latents,
        model: Program,
        start: Program,
        x: Tensor,
        y: Tensor | None,
        ends: Callable[..., Any],
        progress: Progress,
        posterior_draw: Tensor | None = None,
    ) -> LogEvidence:
        """Estimate log p(x) of one chunk of datapoints.

        An exact `posterior_draw` `[N, D]` adds the reverse estimate `extra["log_px_upper"]`, −log of the mean reverse
        weight: an upper bound in expectation.
        """
        path = partial(ends, latents, start, model, x, y)
        betas, k = self.betas(x), min(4, self.num_samples)
        ticks = Shares(progress, len(x) * self.num_samples, (3 if posterior_draw is not None else 2) * len(betas) - 4)

        def draw(k: int) -> Tensor:
            with torch.no_grad():
                return latents.draw(start, x, y, num_samples=k)

        steps = adapt_step_sizes(path, draw(k), betas, self.num_leapfrog, self.target_acceptance, ticks)
        log_w, acceptance = anneal(path, draw(self.num_samples), betas, steps, self.num_leapfrog, ticks)
        evidence = accumulate([log_w], [self.num_samples], Accumulator.log_mean)
        extra = {"acceptance": acceptance}
        if posterior_draw is not None:
            u = posterior_draw.expand(self.num_samples, *posterior_draw.shape).contiguous()
            reverse, _ = anneal(path, u, betas.flip(0), steps.flip(0), self.num_leapfrog, ticks)
            extra["log_px_upper"] = -accumulate([reverse], [self.num_samples], Accumulator.log_mean).log_px
        return replace(evidence, extra=extra)
