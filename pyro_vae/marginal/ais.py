"""Annealed importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, one_of, positive, positive_int, true_false_auto
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.estimator import GradientEstimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate
from pyro_vae.marginal.hmc import Scale, adapt_step_sizes, anneal, path_between, scale_between
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.modes import find_modes
from pyro_vae.marginal.pareto import MIN_SAMPLES
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.programs.density import Evaluate, value_and_grad
from pyro_vae.programs.memory import chunk_option
from pyro_vae.programs.progress import Shares
from pyro_vae.programs.trace import Program

NUM_STARTS = 8
"""Starts of the search for modes."""

MAX_MODES = 4
"""Largest number of modes at which chains start."""

GUIDE_WEIGHT = 0.2
"""Share of chains that start at draws from the guide, which may know other modes."""


@dataclass(frozen=True)
class Start:
    """Where the chains of N datapoints start: K -> draws `[K, N, D]`, their density, and mass matrices from there."""

    draw: Callable[[int], Tensor]
    evaluate: Evaluate
    scale: Scale

    @classmethod
    def at(cls, q: Mixture, scale_tril: Tensor) -> Start:
        """Start at draws from q, with the mass matrix of the covariance's Cholesky factor `[N, D, D]`."""
        return cls(q.sample, partial(value_and_grad, q.log_prob), lambda beta: scale_tril)

    def mixed(self, other: Start, weight: float) -> Start:
        """Return the mixture of this start and a share `weight` of another one, with this one's mass matrices."""

        def draw(k: int) -> Tensor:
            u = self.draw(k)
            from_other = torch.rand(u.shape[:2], dtype=u.dtype, device=u.device) < weight
            return torch.where(from_other.unsqueeze(-1), other.draw(k), u)

        def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
            (log_q, gradient), (log_r, other_gradient) = self.evaluate(u), other.evaluate(u)
            log_q, log_r = log_q + math.log(1 - weight), log_r + math.log(weight)
            log_density = torch.logaddexp(log_q, log_r)
            share = (log_r - log_density).exp().unsqueeze(-1)
            return log_density, gradient + torch.where(share > 0, share * (other_gradient - gradient), 0.0)

        return Start(draw, evaluate, self.scale)


class AIS(GradientEstimator):
    """Estimates log p̂(x) = log (1/K) Σ_k w_k from chains annealed to the posterior.

    Neal (2001), Annealed importance sampling, https://arxiv.org/abs/physics/9803008; for decoder-based models Wu,
    Burda, Salakhutdinov & Grosse (2017), https://arxiv.org/abs/1611.04273. p̂(x) is unbiased, so log p̂(x) is a lower
    bound in expectation, which tightens with more temperatures. The covariance of a Laplace approximation, at the mode
    with the highest evidence, whitens the posterior for HMC; a pilot run of the same length finds the step size for
    each temperature and datapoint. `elbo` is the guide's; `extra` holds the mean `acceptance` of each datapoint.

    Args:
        num_samples: K, the number of chains per datapoint.
        num_temperatures: T, the number of steps of β from 0 to 1.
        num_leapfrog: leapfrog steps per transition.
        start: where chains start: `auto`, Student-t distributions around modes found from several starts, mixed with a
            share of the guide; `guide`; or `prior`, which covers modes that neither finds, but needs more temperatures.
        target_acceptance: acceptance rate that the pilot run aims at.
        chunk_size: chains in memory at once; `auto` uses as many as fit into the cache.
        compile: True, False or `auto`, see `Estimator`.

    Raises:
        BadInput: if an argument is out of range; when called, if the model's latents are discrete or masked.

    Example:
        >>> evidence = AIS(num_samples=4, num_temperatures=10, start="guide")(vae.model, vae.guide, x[:2])
        >>> evidence.log_px.shape, evidence.extra["acceptance"].shape
        (torch.Size([2]), torch.Size([2]))
    """

    name = "ais"

    def __init__(
        self,
        num_samples: int = 32,
        num_temperatures: int = 100,
        num_leapfrog: int = 5,
        start: str = "auto",
        target_acceptance: float = 0.7,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
    ) -> None:
        self.num_samples = positive_int("num_samples", num_samples)
        self.num_temperatures = positive_int("num_temperatures", num_temperatures)
        self.num_leapfrog = positive_int("num_leapfrog", num_leapfrog)
        self.start = one_of("start", start, ("auto", "guide", "prior"))
        self.target_acceptance = positive("target_acceptance", target_acceptance)
        if self.target_acceptance >= 1:
            raise BadInput(f"target_acceptance={target_acceptance} must lie below 1")
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)

    def advice(self, discrete: bool = False) -> str:
        """Advise more temperatures, as the variance of log w falls as 1/T (Neal 2001); first enough samples for k̂."""
        temperatures = f"set estimator.num_temperatures={4 * self.num_temperatures}"
        return temperatures if self.num_samples >= MIN_SAMPLES else f"set estimator.num_samples=32, then {temperatures}"

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
        """Estimate log p(x), with exact `posterior_draws` `[N, D]` also from above (see `run`)."""
        p, parts = Posteriors.of(model, guide, x, y, self.compile, self.chunk_size), []
        # a Hessian needs 8 directions of each datapoint at once
        n = max(1, p.pairs // max(8, self.num_samples))
        for index in torch.arange(len(x), device=x.device).split(n):
            part, draws = p.rows(index), None if posterior_draws is None else posterior_draws[index]
            parts.append(self.run(self._start(part), part.value_and_grad, len(index), progress, draws))
        return replace(LogEvidence.cat(parts), elbo=guide_elbo(model, guide, x, y))

    def _start(self, p: Posteriors) -> Start:
        num_starts, max_modes = (NUM_STARTS, MAX_MODES) if self.start == "auto" else (1, 1)
        q = find_modes(p, num_starts, max_modes, max_steps=50).q
        draw, program = (p.draw_prior, p.prior) if self.start == "prior" else (p.draw_guide, p.guide)
        spread = draw(100).var(0).clamp(1e-8, 1e8).sqrt()
        start = Start(draw, partial(p.value_and_grad_of, program), scale_between(spread, q.largest()))
        return start if self.start != "auto" else Start.at(q, q.largest()).mixed(start, GUIDE_WEIGHT)

    def betas(self, u: Tensor) -> Tensor:
        """Return 0 = β_0 < … < β_T = 1, `[T + 1]`: a rescaled sigmoid, dense at both ends."""
        s = torch.sigmoid(torch.linspace(-4, 4, self.num_temperatures + 1, dtype=torch.float32, device=u.device))
        return (s - s[0]) / (s[-1] - s[0])

    def run(
        self, start: Start, joint: Evaluate, num_data: int, progress: Progress, posterior_draw: Tensor | None = None
    ) -> LogEvidence:
        """Estimate log p(x) of datapoints that are in memory at once.

        Args:
            start: where the chains start.
            joint: log p(x, u) and its gradient.
            num_data: N, the number of datapoints.
            progress: called with the number of finished chains.
            posterior_draw: exact draws from p(u | x), `[N, D]`, which add the reverse estimate
                `extra["log_px_upper"]`, −log of the mean reverse weight: an upper bound in expectation.

        Returns:
            The estimates, with the mean log-weights as `elbo`.
        """
        log_w, acceptance, reverse = self.log_weights(start, joint, num_data, progress, posterior_draw)
        evidence = accumulate([log_w], [self.num_samples], Accumulator.log_mean)
        extra = {"acceptance": acceptance}
        if reverse is not None:
            extra["log_px_upper"] = -accumulate([reverse], [self.num_samples], Accumulator.log_mean).log_px
        return replace(evidence, extra=extra)

    def log_weights(
        self, start: Start, joint: Evaluate, num_data: int, progress: Progress, posterior_draw: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return forward log-weights `[K, N]`, the acceptance `[N]`, and reverse log-weights from a posterior draw.

        The arguments are those of `run`.
        """
        path = path_between(start.evaluate, joint)
        u = start.draw(min(4, self.num_samples))
        betas, chains = self.betas(u), (start.scale, self.num_leapfrog)
        num_runs = 2 if posterior_draw is None else 3
        ticks = Shares(progress, num_data * self.num_samples, num_runs * len(betas) - 4)
        steps = adapt_step_sizes(path, u, betas, *chains, self.target_acceptance, ticks)
        log_w, acceptance = anneal(path, start.draw(self.num_samples), betas, steps, *chains, ticks)
        if posterior_draw is None:
            return log_w, acceptance, None
        u = posterior_draw.expand(self.num_samples, *posterior_draw.shape).contiguous()
        reverse, _ = anneal(path, u, betas.flip(0), steps.flip(0), *chains, ticks)
        return log_w, acceptance, reverse
