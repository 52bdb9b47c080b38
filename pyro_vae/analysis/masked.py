"""Draws of the latents given the observed entries of x, whose missing entries are NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import datapoints
from pyro_vae.marginal.hmc import sample_posterior
from pyro_vae.marginal.judge import MIN_ESS
from pyro_vae.marginal.ladder import search
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import KEPT
from pyro_vae.marginal.rhat import split_rhat
from pyro_vae.programs import notes
from pyro_vae.programs.missing import masked
from pyro_vae.programs.trace import Program, trace

MAX_RHAT = 1.2
"""R̂ above which chains have not converged, unless their weights give each mode its share."""

MAX_DRIFT = 5.0
"""Standard errors by which the mean of the chains may move from the resampled points."""


@dataclass(frozen=True, eq=False)
class Filled:
    """A program that runs on x with its missing entries, which are NaN, replaced by `fill` `[1, ...]`.

    With `masked`, the log-density of the site x leaves these entries out.
    """

    program: Program
    fill: Tensor
    masked: bool = False

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Any:
        """Run the program."""
        observed = ~x.isnan()
        args = (torch.where(observed, x, self.fill),) + (() if y is None else (y,))
        if not self.masked:
            return self.program(*args)
        with _Mask(observed):
            return self.program(*args)


class _Mask(Messenger):
    """Masks the log-probabilities of the entries of the site x before they are summed."""

    def __init__(self, observed: Tensor) -> None:
        super().__init__()
        self.observed = observed

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            msg["fn"] = masked(msg["fn"], self.observed)


def accept_nan(model: Program, guide: Program, x: Tensor, y: Tensor | None) -> tuple[Program, Program]:
    """Return p(x_obs, z) and q(z | x) as programs of x `[N, ...]` with NaN, for programs of complete data.

    The guide sees prior means in place of missing values.
    """
    one = x[:1].nan_to_num(0.0)
    label = None if y is None else y[:1]
    with torch.no_grad():
        nodes: Any = trace(poutine.uncondition(model), one, label, num_samples=100).nodes
    draws = nodes["x"]["value"]
    valid, typical = draws[0], draws.mean(0)  # a mean may lie outside of the support
    return Filled(model, valid, masked=True), Filled(guide, typical)


def draw_posterior(
    p: Posteriors, num_samples: int, num_steps: int, on_step: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """Draw u `[num_samples, N, D]`, and tell which datapoints' draws may be wrong, `[N]`.

    Sampling-importance-resampling from a mixture of the modes, then HMC from the resampled points: half of its steps
    adapt the step size.
    """
    num_chains = max(num_samples, 4)
    with torch.enable_grad():
        proposal = search(p, num_starts=10, max_modes=3, guide_weight=0.1)
    pool, log_w = proposal.draw(p, min(KEPT, max(1000, 4 * num_chains)))
    weights = log_w[: len(pool)].nan_to_num(-torch.inf).softmax(0)
    rows = torch.arange(len(p), device=pool.device)
    start = pool[torch.multinomial(weights.T, num_chains, replacement=True).T, rows]
    num_warmup = num_steps // 2
    scale_tril = _nearest_scale(proposal.q, start)
    draws, _ = sample_posterior(
        p.value_and_grad, start, scale_tril, num_warmup, num_steps - num_warmup, progress=on_step
    )
    ess = 1 / weights.square().sum(0)
    last, sd = draws[-1], draws.flatten(0, 1).std(0)
    se = sd * (1 / num_chains + 1 / ess.clamp_max(num_chains)).sqrt().unsqueeze(-1)
    doubtful = ((last.mean(0) - start.mean(0)).abs() > MAX_DRIFT * se).any(-1) | ~last.isfinite().all(0).all(-1)
    if len(draws) >= 4:  # chains may stay in their modes if the weights give these their shares
        doubtful |= (split_rhat(draws) > MAX_RHAT) & (ess < MIN_ESS)
    return last[:num_samples], doubtful


def warn_of(doubtful: Tensor) -> None:
    """Warn if there are datapoints whose chains have not converged."""
    if count := int(doubtful.sum()):
        notes.warn(
            f"the chains of {count} of {datapoints(len(doubtful))} have not converged: raise num_steps, and see "
            "whether the draws change"
        )


def warn_of_ess(few: Tensor) -> None:
    """Warn if there are datapoints whose importance weights rest on a few draws."""
    if count := int(few.sum()):
        notes.warn(
            f"the weights of {count} of {datapoints(len(few))} have an effective sample size below {MIN_ESS:g}: raise "
            "num_proposals, or use method=posterior"
        )


def _nearest_scale(q: Mixture, u: Tensor) -> Tensor:
    """Return the scale `[C, N, D, D]` of the component whose center is nearest to u `[C, N, D]`, in its own units."""
    distance = []
    for loc, scale_tril, log_weight in zip(q.loc, q.scale_tril, q.log_weights, strict=True):
        white = torch.linalg.solve_triangular(scale_tril, (u - loc).movedim(0, -1), upper=False)
        distance.append(torch.where(log_weight.isfinite(), white.square().sum(1).T, torch.inf))
    nearest = torch.stack(distance).argmin(0)
    return q.scale_tril[nearest, torch.arange(u.shape[1], device=u.device)]
