"""How close an estimator comes to log p(x), on data from the model, which have exact posterior draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, datapoints, positive_int
from pyro_vae.marginal import Estimator
from pyro_vae.marginal.bdmc import simulate
from pyro_vae.marginal.chains import fit
from pyro_vae.marginal.estimator import require_estimator
from pyro_vae.marginal.judge import judge
from pyro_vae.marginal.ladder import search
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.sandwich import Sandwich, iw_eubo
from pyro_vae.programs.checks import require_programs, require_tensors
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.memory import padded
from pyro_vae.programs.progress import progress
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program

TOLERANCE = 0.1
"""Nats within which an estimate counts as right."""

PILOT = 1000
"""Draws that tell whether a proposal is good enough."""

TARGET_SE = 0.03
"""Standard error of an upper bound, in nats, above which its proposal is fitted to Markov chains."""

Z = 1.96
"""Quantile of the normal distribution for intervals of 95 %."""


@dataclass(frozen=True)
class Certificate:
    """An estimator's log p̂(x) of N simulated datapoints beside upper bounds from their exact posterior draws.

    The upper bound U of a datapoint is at least log p(x) in expectation, so the mean of U − log p̂ is at least the mean
    error of log p̂ = log p(x) − E log p̂. A single U may be too low: of a posterior of which all searches miss a share s,
    the exact draw lies in the missed part with probability s, and only then U shows the error −log(1 − s). Hence
    `within` counts datapoints that look right, while `biased` bounds the share whose error exceeds the tolerance: by
    Markov's inequality it is at most the mean error divided by the tolerance.

    All this is about data like the model's own, not about the data of a test set.

    Attributes:
        log_px: the estimates, `[N]`.
        upper: the upper bounds, `[N]`.
        unreliable: which estimates the estimator itself calls unreliable, `[N]`.
        tolerance: in nats.
    """

    log_px: Tensor
    upper: Tensor
    unreliable: Tensor
    tolerance: float = TOLERANCE

    @property
    def gap(self) -> Tensor:
        """U − log p̂, `[N]`, in nats."""
        return self.upper - self.log_px

    @property
    def within(self) -> float:
        """Share of datapoints with |U − log p̂| of at most `tolerance`."""
        return (self.gap.abs() <= self.tolerance).double().mean().item()

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `within` over data sets: Wilson's, for binomial counts."""
        n, share = len(self.gap), self.within
        center = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        width = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return max(0.0, center - width), min(1.0, center + width)

    @property
    def gap_mean(self) -> float:
        """Mean of U − log p̂, which bounds the mean error, in nats."""
        return self.gap.mean().item()

    @property
    def gap_se(self) -> float:
        """Standard error of `gap_mean` over datapoints and draws."""
        return (self.gap.std() / math.sqrt(len(self.gap))).item()

    @property
    def biased(self) -> float:
        """Bound on the share of datapoints with log p(x) − E log p̂ above `tolerance`, from `gap_mean` + 2 `gap_se`."""
        bound = (self.gap_mean + 2 * self.gap_se) / self.tolerance
        return min(1.0, max(0.0, bound)) if math.isfinite(bound) else 1.0

    def as_json(self) -> dict[str, Any]:
        """Return the summary for certificate-NAME-K.json."""
        return {
            "num_data": len(self.gap),
            "tolerance": self.tolerance,
            "within": self.within,
            "within_interval": list(self.interval),
            "gap": self.gap_mean,
            "gap_se": self.gap_se,
            "gap_max": self.gap.max().item(),
            "biased": self.biased,
            "unreliable": self.unreliable.double().mean().item(),
        }

    def __str__(self) -> str:
        """Return the certificate in words."""
        low, high = (f"{100 * share:.1f}" for share in self.interval)
        return (
            f"certificate: {100 * self.within:.1f} % of {len(self.gap)} simulated datapoints have log p(x) within "
            f"{self.tolerance:g} nats (95 % interval {low} to {high} %), judged by upper bounds from their exact "
            f"posterior draws; the mean of upper bound - estimate is {self.gap_mean:.3f} +- {self.gap_se:.3f} nats, so "
            f"at most {100 * self.biased:.0f} % are too low by more than {self.tolerance:g} nats in expectation; this "
            "holds for data like the model's own"
        )


def certificate(
    model: Program,
    guide: Program,
    x: Tensor,
    estimator: Estimator,
    y: Tensor | None = None,
    num_samples: int = 10_000,
) -> Certificate:
    """Test an estimator on as many datapoints as x has, simulated from the model with exact draws of their posteriors.

    Gives the upper bound of `iw_eubo` with each exact draw. Its proposal comes from a search for modes that knows
    nothing of the draw, and is fitted to Markov chains where its weights are uneven.

    Args:
        model: the generative model.
        guide: the guide.
        x: data, `[N, ...]`, of which only the number and the shape are used.
        estimator: the estimator to test.
        y: labels of a conditional model, `[N]`, which the simulated data get.
        num_samples: K of the upper bound.

    Raises:
        BadInput: if the estimator cannot be tested, or if the model cannot be simulated or has discrete latents.

    Example:
        >>> found = certificate(vae.model, vae.guide, x, Auto())  # doctest: +SKIP
        >>> found.within, found.biased                            # doctest: +SKIP
    """
    require_tensors(x, y)
    require_testable(estimator, len(x))
    if positive_int("num_samples", num_samples) < 2:
        raise BadInput(f"num_samples={num_samples} must be at least 2")
    require_programs(model, guide, y)
    with for_programs(x):
        x, y = ordinary(x), ordinary(y)
        simulated, z = simulate(model, x, y)
    evidence = estimator(model, guide, simulated, y)
    with for_programs(x):
        upper = _upper(Posteriors.of(model, guide, simulated, y, estimator.compile), z, num_samples)
    return Certificate(evidence.log_px.double(), upper, evidence.unreliable)


def require_testable(estimator: Estimator, num_data: int) -> None:
    """Check that an estimator estimates log p(x) of given data, and of as many as `num_data` datapoints.

    Raises:
        BadInput: if it simulates its data, estimates nothing, or accepts only fewer datapoints.
    """
    require_estimator(estimator)
    if estimator.simulates or not estimator.estimates:
        problem = "simulates its own data" if estimator.simulates else "estimates nothing"
        raise BadInput(
            f"certify tests estimates of log p(x), but estimator={estimator.name} {problem}: use estimator=auto"
        )
    if estimator.max_data is not None and num_data > estimator.max_data:
        raise BadInput(
            f"certify tests {datapoints(num_data)}, but estimator={estimator.name} accepts {estimator.max_data}: set "
            f"max_data={num_data}, or use estimator=auto, which is quicker"
        )


def _upper(p: Posteriors, z: Tensor, num_samples: int) -> Tensor:
    """Return an upper bound for each datapoint from its exact posterior draw z `[N, D]`: `[N]`."""
    n, parts = p.at_once, []
    with progress(f"upper bounds of {datapoints(len(p))}", len(p), "datapoint") as tick:
        for index in torch.arange(len(p), device=p.x.device).split(n):
            parts.append(_bound(p.rows(index), z[index], num_samples))
            tick(len(index))
    return torch.cat(parts)


def _bound(p: Posteriors, z: Tensor, num_samples: int) -> Tensor:
    """Bound log p(x); the proposals are fitted to Markov chains where those of the search are not good enough."""
    proposal = search(p, num_starts=12, max_modes=4, guide_weight=0.1)
    u, log_w = proposal.draw(p, PILOT)
    found, proposal = judge(log_w), proposal.reweighted(u, log_w)
    poor = found.unreliable | (found.se > TARGET_SE * math.sqrt(num_samples / PILOT))
    upper = log_w.new_empty(len(p))
    for rows in (poor.nonzero().squeeze(1), (~poor).nonzero().squeeze(1)):
        if len(rows):
            index = padded(rows)
            part, q = p.rows(index), proposal.rows(index)
            if poor[rows[0]]:
                q = fit(part, q, Sandwich().chains(part, q, q.q, num_draws=150).draws)
            _, log_w = q.draw(part, num_samples - 1)
            upper[index] = iw_eubo(q.log_weight(part, z[index].unsqueeze(0)), log_w).squeeze(0)
    return upper
