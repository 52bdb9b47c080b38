"""The inference gap of a guide and its parts (Cremer, Li & Duvenaud 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.analysis.by_name import ByName
from pyro_vae.errors import BadInput, datapoints, one_line, positive_int
from pyro_vae.marginal import ELBO, Estimator
from pyro_vae.marginal.chain import Chain
from pyro_vae.marginal.estimator import require_log_px
from pyro_vae.marginal.laplace import laplace
from pyro_vae.marginal.local import NUM_PARTICLES, at_laplace, fit_elbo, still_rises
from pyro_vae.programs import notes
from pyro_vae.programs.checks import require_match, require_programs, require_tensors
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents, LogDensity
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.progress import Shares, progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, trace

TOLERANCE = 0.3
"""Nats by which the bounds on I(x; z) may differ before N datapoints are too few for it.

The lower bound errs by a third to a half of the difference (Gaussians of 1 to 20 dimensions, I of 2 to 16 nats, N of at
least 300).
"""

TOLERATED = 0.01
"""Share of datapoints whose bound may still rise without a warning."""


class StillRises(UserWarning):
    """The search of the best members of a guide's family was too short."""


@dataclass(frozen=True)
class Gaps(ByName[Tensor]):
    """The parts of log p(x) − ELBO of N datapoints, each in nats, `[N]`.

    Attributes:
        log_px: log p(x).
        elbo: of the guide.
        elbo_best: of the best member of the guide's family.
        approximation_gap: log_px − elbo_best.
        amortization_gap: elbo_best − elbo.
        rising: 1 where `elbo_best` still rose at the end of the search: the approximation gap is too large; else 0.
    """

    log_px: Tensor
    elbo: Tensor
    elbo_best: Tensor
    approximation_gap: Tensor
    amortization_gap: Tensor
    rising: Tensor

    def warning(self, num_steps: int) -> str | None:
        """Return a warning with a remedy if more than 1 % of the bounds still rose after `num_steps`, else None."""
        so = (
            "the ELBO of the best member of the guide's family still rises for {share} of datapoints, so approximation "
            "gaps are too large"
        )
        return too_short(self.rising, num_steps, so)

    def as_json(self) -> dict[str, float]:
        """Return the means over datapoints, and N as `num_data`, for gaps.json."""
        return {name: value.mean().item() for name, value in self.items()} | {"num_data": len(self.elbo)}


def gaps(
    model: Program,
    guide: Program,
    x: Tensor,
    estimator: Estimator,
    y: Tensor | None = None,
    num_steps: int = 300,
    num_samples: int = 200,
    chunk_size: int = 100_000,
) -> Gaps:
    """Split log p(x) − ELBO into an approximation gap and an amortization gap.

    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders,
    https://arxiv.org/abs/1801.03558, eq. 5.

    Each datapoint's best member of the guide's family is searched from two starts: the guide's q, and the Laplace
    approximation of the posterior. The better of the two, or the guide's q itself, is kept, and its ELBO is estimated
    from fresh draws. A warning of class `StillRises` tells if the bound still rises at the end of the search.

    A family consists of the distributions whose parameters differ from those of q, with free values for each datapoint.
    A flow's are those that the guide's networks make from any features, followed by any location and scale
    (`marginal.local.fit_elbo`). With several latent sites, e.g. q(z1 | x) q(z2 | z1), the guide's networks keep their
    part: the parameters of each site are the networks' plus offsets that are free for each datapoint but do not depend
    on other sites (`marginal.chain.Chain`). The approximation gap then holds errors of the networks between the
    latents, e.g. of how the mean of z2 depends on z1; the amortization gap holds errors that offsets can mend.

    Args:
        model: the generative model.
        guide: a guide whose sites are Gaussians, mixtures or flows.
        x: data, `[N, ...]`.
        estimator: estimates log p(x). Its errors go into the approximation gap.
        y: labels of a conditional model, `[N]`.
        num_steps: gradient steps from the guide's q; from the Laplace approximation, which is closer, half as many.
        num_samples: draws that estimate each ELBO.
        chunk_size: pairs (draw, datapoint) in memory at once.

    Raises:
        BadInput: if the guide's family cannot be fitted to single datapoints.

    Example:
        >>> from pyro_vae.marginal import Refined
        >>> parts = gaps(vae.model, vae.guide, x[:3], Refined(), num_steps=10)
        >>> parts.approximation_gap.shape, parts.amortization_gap.shape
        (torch.Size([3]), torch.Size([3]))
    """
    require_tensors(x, y)
    require_programs(model, guide, y)
    for name, value in (("num_steps", num_steps), ("num_samples", num_samples), ("chunk_size", chunk_size)):
        positive_int(name, value)
    require_log_px(estimator)
    with for_programs(x):
        x, y = ordinary(x), ordinary(y)
        with fork_rng(x):  # the same draws, checked or not
            require_match(model, guide, x, y)
        latents = Latents.of(model, x, y)
        if latents.is_constrained:
            raise BadInput("analysis=gaps needs latents on the whole real line: use analysis=surgery")
        rows = rows_in_memory(chunk_size, max(num_samples, NUM_PARTICLES), model, x, y)
        log_px = estimator(model, guide, x, y).log_px
        elbo = ELBO(num_samples)(model, guide, x, y).log_px
        parts, best, rising = slices(rows, x, y), [], []
        with progress(f"fitting the guide's family to each of {datapoints(len(x))}", len(x), "datapoint") as tick:
            for x_n, y_n in parts:
                shares = Shares(tick, len(x_n), num_steps + num_steps // 2)
                try:
                    elbo_n, rising_n, _ = best_members(
                        latents, model, guide, x_n, y_n, num_steps, num_samples, on_step=shares
                    )
                except (TypeError, NotImplementedError) as error:
                    raise BadInput(
                        "analysis=gaps cannot fit a member of this guide's family to a datapoint "
                        f"({one_line(error)}): use analysis=surgery, or guide=diagonal or full_covariance"
                    ) from error
                best.append(elbo_n)
                rising.append(rising_n)
        elbo_best = torch.cat(best)
    found = Gaps(log_px, elbo, elbo_best, log_px - elbo_best, elbo_best - elbo, torch.cat(rising).to(elbo))
    if (warning := found.warning(num_steps)) is not None:
        notes.warn(warning, StillRises)
    return found


def too_short(rising: Tensor, num_steps: int, problem: str) -> str | None:
    """Return a warning with a remedy if more than 1 % of the bounds `[N]` still rose after `num_steps`, else None.

    `problem` tells what follows for `{share}` of the datapoints.
    """
    share = rising.double().mean().item()
    if share <= TOLERATED:
        return None
    problem = problem.format(share=f"{100 * share:.1f} %")
    return f"{problem}: raise num_steps={num_steps}, e.g. to num_steps={4 * num_steps}"


def best_members(
    latents: Latents,
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None,
    num_steps: int,
    num_samples: int,
    *,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the guide's family to each datapoint, as `gaps` describes.

    Returns:
        The ELBO `[N]` of each datapoint's best member, whether it still rises, `[N]`, and the draws
        `[num_samples, N, D]` that estimate the ELBO.

    Raises:
        TypeError, NotImplementedError: if the family has no parameters that can be fitted.
    """
    log_joint = latents.log_density(model, x, y)
    with torch.no_grad():
        start = latents.center(guide, x, y)
        variance = latents.variance(guide, x, y)
        q = _distribution(latents, guide, x, y)
    from_guide = fit_elbo(log_joint, q, num_steps, lr=0.1, num_rounds=2, on_step=on_step)
    mode, scale_tril = laplace(log_joint, start, variance)
    with torch.no_grad():
        near_mode = at_laplace(q, mode, torch.cholesky_inverse(scale_tril))
    from_mode = fit_elbo(log_joint, near_mode, max(1, num_steps // 2), lr=0.1, on_step=on_step)
    candidates = [from_guide, from_mode, q]
    estimates = torch.stack([_elbo(log_joint, member, num_samples)[0] for member in candidates])
    chosen = estimates.nan_to_num(-math.inf, posinf=-math.inf).argmax(0)
    # the largest of several estimates is biased upwards, fresh draws are not
    best, rises = torch.empty_like(estimates[0]), torch.empty_like(chosen, dtype=torch.bool)
    draws = start.new_empty(num_samples, *start.shape)
    for i, member in enumerate(candidates):
        if (rows := chosen == i).any():
            elbo, u = _elbo(log_joint, member, num_samples)
            best, draws = torch.where(rows, elbo, best), torch.where(rows.unsqueeze(-1), u, draws)
            rises = torch.where(rows, still_rises(log_joint, member), rises)
    return best, rises, draws


def _distribution(latents: Latents, guide: Program, x: Tensor, y: Tensor | None) -> Any:
    """Return the guide's q(u | x) with parameters for each datapoint."""
    if len(latents.sites) == 1 and len(latents.sites[0].unconstrained_shape) == 1:
        return trace(guide, x, y, num_samples=None).nodes[latents.sites[0].name]["fn"]
    return Chain(latents, guide, x, y)


@torch.no_grad()
def _elbo(log_joint: LogDensity, q: Any, num_samples: int) -> tuple[Tensor, Tensor]:
    u: Tensor = q.sample((num_samples,))
    return (log_joint(u) - q.log_prob(u)).double().mean(0), u
