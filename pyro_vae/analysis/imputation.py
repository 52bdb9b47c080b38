"""Imputation of missing values by draws from their posterior."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from torch import Tensor

from pyro_vae.analysis.gibbs import chain, x_given_latents
from pyro_vae.analysis.masked import accept_nan, draw_posterior, warn_of, warn_of_ess
from pyro_vae.distributions import Columns
from pyro_vae.errors import BadInput, datapoints, one_line, positive_int, true_false
from pyro_vae.marginal import Importance
from pyro_vae.marginal.judge import MIN_ESS
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.programs.checks import require_programs, require_tensors
from pyro_vae.programs.chunks import require_room, slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.missing import X_MIS, check_factorizes, entries
from pyro_vae.programs.progress import Shares, progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, log_prob, trace

log = logging.getLogger(__name__)

CHAINS_AT_ONCE = 4096

ROWS_AT_ONCE = 256
"""Largest number of datapoints whose proposals are held at once."""

METHODS = {"auto": None, "posterior": 20, "gibbs": 100, "importance": 1000}
"""Methods with their default numbers of steps."""


def impute(
    model: Program,
    guide: Program,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 10,
    num_steps: int | None = None,
    num_proposals: int | None = None,
    mean: bool = False,
    method: str = "auto",
    accepts_nan: bool = False,
) -> Tensor:
    """Draw the missing part of x from p(x_mis | x_obs): `[num_samples, N, ...]`, equal to x where it is observed.

    `method="posterior"` draws z from p(z | x_obs) ∝ p(z) p(x_obs | z), then x_mis from p(x_mis | z). It finds the modes
    from several starts, resamples draws of a mixture fitted to them by their importance weights, and moves each by HMC.
    The guide only gives starts and a tenth of the proposals. A warning counts the datapoints whose chains have not
    converged.

    `method="gibbs"` is Metropolis within Gibbs: z' ~ q(z | x) is accepted with probability min(1, w(z') / w(z)), where
    w(z) = p(x, z) / q(z | x); then x_mis ~ p(x_mis | z). The chains start at draws from the prior and accept every
    proposal in the first half of the steps. With a guide that is one or two posterior sd off they converge slowly, and
    nothing warns of that; a warning only tells if they hardly move.

    `method="importance"` draws `num_proposals` z from the guide and weights them by p(x_obs, z) / q(z | x_obs). With
    `mean` it returns the self-normalized estimate of E[x_mis | x_obs], `[1, N, ...]` (single imputation), otherwise
    draws x_mis ~ p(x_mis | z) resampled by these weights (multiple imputation). It is quick, and accurate if the guide
    knows of missing entries; a warning counts the datapoints with fewer than 100 effective draws. Mattei & Frellsen
    (2019), MIWAE, https://arxiv.org/abs/1812.02633, §3.

    With a missingness model, all three draw x_mis, the latent site `x_mis`, given the mask as well: Ipsen, Mattei &
    Frellsen (2021), not-MIWAE, https://arxiv.org/abs/2006.12871, §3.2.

    `method="auto"` is `posterior`, or `gibbs` where HMC cannot move: if a latent is discrete, masked, or has different
    bounds for each datapoint.

    Mattei & Frellsen (2018), Leveraging the exact likelihood of deep latent variable models,
    https://arxiv.org/abs/1802.04826, algorithm 2; pseudo-Gibbs: Rezende, Mohamed & Wierstra (2014),
    https://arxiv.org/abs/1401.4082, appendix F.

    Args:
        model: Pyro program with its datapoints in a plate at dim −1; the entries of its site `x` are independent given
            z.
        guide: proposal for the latent sites.
        x: data, `[N, ...]`; missing entries may have any value.
        observed: whether each entry of x is observed, `[N, ...]`.
        y: labels of a conditional model, `[N]`.
        num_samples: chains per datapoint.
        num_steps: steps per chain, half of them warmup: 20 of HMC by default, 100 with `gibbs`. With `importance` it is
            another name of `num_proposals`, as in earlier versions.
        num_proposals: number of weighted draws of z with `importance`, 1000 by default.
        mean: return means of p(x_mis | z) instead of draws, whose average has less noise.
        method: `auto`, `posterior`, `gibbs` or `importance`.
        accepts_nan: whether model and guide accept x with NaN, as those of a VAE trained with missing entries do.

    Raises:
        BadInput: if a number is out of range, `posterior` does not apply because a latent is discrete, or the mask
            observes a part of an event that does not factorize given z.
        NoEvidence: if the guide is a point, which cannot propose.

    Example:
        >>> impute(vae.model, vae.guide, x[:3], torch.rand(3, 12) < 0.8, num_samples=2, num_steps=4).shape
        torch.Size([2, 3, 12])
    """
    positive_int("num_samples", num_samples)
    if method not in tuple(METHODS):
        raise BadInput(f"method={method!r} is not one of {', '.join(METHODS)}")
    for name, value in (("num_steps", num_steps), ("num_proposals", num_proposals)):
        if value is not None:
            positive_int(name, value)
    true_false("mean", mean)
    require_tensors(x, y)
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.shape != x.shape:
        raise BadInput(f"observed must be a tensor of bools of the same shape as x, {list(x.shape)}")
    require_programs(model, guide, y)
    require_room(num_samples * x.numel(), x, f"num_samples={num_samples} takes")
    parts, doubtful = [], []
    with for_programs(x), torch.no_grad():
        with fork_rng(x):  # the same draws, checked or not
            known = torch.where(observed[:2], x[:2], torch.full_like(x[:2], 0.5))
            Importance(1).check(model, guide, known, y)  # rejects points
            names = trace(model, *next(slices(1, x, y)), num_samples=None).nodes
        if "x" not in names:
            raise BadInput("the model has no site x: name the observed site, whose values are imputed, x")
        if method == "auto":
            method = _applicable(model, x, y)
        if mean and X_MIS in names and method != "importance":
            raise BadInput(
                f"mean=True with method={method}: given z, the mean of what is missing has no closed form under a "
                "missingness model; use method=importance, or take the mean of the draws"
            )
        with fork_rng(x):
            check_factorizes(
                trace(model, known[:1], None if y is None else y[:1], num_samples=None).nodes["x"]["fn"], observed
            )
        if num_proposals is not None and (method != "importance" or num_steps is not None):
            raise BadInput(
                f"num_proposals={num_proposals} is of method=importance, whose num_steps is the same, and this is "
                f"method={method} with num_steps={num_steps}: give one of them"
            )
        steps = num_proposals or num_steps or METHODS[method] or 0
        n = rows_in_memory(CHAINS_AT_ONCE, steps if method == "importance" else num_samples, model, known, y)
        with progress(f"imputing {datapoints(len(x))}", len(x), "datapoint") as tick:
            for rows in slices(min(n, ROWS_AT_ONCE) if method == "posterior" else n, x, observed, y):
                shares = Shares(tick, len(rows[0]), steps)
                if method != "gibbs":
                    programs = (model, guide) if accepts_nan else accept_nan(model, guide, rows[0], rows[2])
                    draw = _from_posterior if method == "posterior" else _by_importance
                    draws, unsure = draw(
                        *programs, rows, num_samples=num_samples, num_steps=steps, mean=mean, on_step=shares
                    )
                    parts.append(draws)
                    doubtful.append(unsure)
                    continue
                repeated: list[Any] = [
                    None if part is None else part.repeat(num_samples, *[1] * (part.ndim - 1)) for part in rows
                ]
                draws = chain(
                    model, guide, *repeated,
                    num_steps=steps, mean=mean, on_step=shares, accepts_nan=accepts_nan,
                )  # fmt: skip
                parts.append(draws.unflatten(0, (num_samples, -1)))
    if doubtful:
        (warn_of_ess if method == "importance" else warn_of)(torch.cat(doubtful))
    return torch.cat(parts, 1)


def _applicable(model: Program, x: Tensor, y: Tensor | None) -> str:
    """Return `posterior`, or `gibbs` if the latents have no unconstrained coordinates for HMC."""
    try:
        with fork_rng(x):
            Latents.of(model, x.nan_to_num(0.5), y)
    except BadInput as error:
        log.info("imputing with method=gibbs, since HMC does not apply: %s", one_line(error))
        return "gibbs"
    return "posterior"


def _from_posterior(
    model: Program,
    guide: Program,
    data: Sequence[Any],
    *,
    num_samples: int,
    num_steps: int,
    mean: bool,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Return draws `[num_samples, N, ...]`, and which datapoints' may be wrong, `[N]`, for data (x, observed, y)."""
    x, observed, y = data
    doubtful = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    result = x.expand(num_samples, *x.shape).clone()
    (index,) = (~observed).flatten(1).any(1).nonzero(as_tuple=True)
    if len(index) == 0:
        for _ in range(num_steps):
            on_step()
        return result, doubtful
    missing = torch.where(observed, x, torch.nan)
    p = Posteriors.of(model, guide, missing, y, compile=False).rows(index)
    u, doubtful[index] = draw_posterior(p, num_samples, num_steps, on_step)
    values, _ = p.latents.unpack(u)
    nodes: Any = trace(poutine.condition(p.model, values), p.x, p.y, num_samples=num_samples).nodes
    drawn = x_given_latents(nodes, mean)
    result[:, index] = torch.where(observed[index], x[index], drawn)
    return result, doubtful


def _by_importance(
    model: Program,
    guide: Program,
    data: Sequence[Any],
    *,
    num_samples: int,
    num_steps: int,
    mean: bool,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Return draws `[num_samples, n, ...]`, or their mean `[1, n, ...]`, and which datapoints have a small ESS."""
    x, observed, y = data
    missing = torch.where(observed, x, torch.nan)
    proposed = trace(guide, missing, y, num_samples=num_steps)
    weighted: Any = trace(poutine.replay(model, trace=proposed), missing, y, num_samples=num_steps)
    log_w = log_prob(weighted, num_steps, x) - log_prob(proposed, num_steps, x)
    weights = log_w.double().softmax(0)
    nodes = weighted.nodes
    if mean and X_MIS in nodes:
        drawn = _weighted_mean(nodes[X_MIS]["value"], weights.to(x.dtype)).unsqueeze(0)
    elif mean:
        drawn = _mean_of_mixture(nodes["x"]["fn"], weights.to(x.dtype)).unsqueeze(0)
    else:
        index = torch.multinomial(weights.T, num_samples, replacement=True).T
        drawn = x_given_latents(nodes, mean=False)[index, torch.arange(len(x), device=x.device)]
    for _ in range(num_steps):
        on_step()
    few = (1 / weights.square().sum(0) < MIN_ESS) & ~observed.flatten(1).all(1)
    return torch.where(observed, x, drawn), few


def _mean_of_mixture(fn: Any, weights: Tensor) -> Tensor:
    """Return the mean of fn, of batch_shape `[K, N]`, over K with weights `[K, N]`: `[N, ...]`."""
    entry, _ = entries(fn)
    columns = entry.base_dist if isinstance(entry, MaskedDistribution) else entry
    if isinstance(columns, Columns):  # codes of categories have no mean
        return columns.mean_of_mixture(weights)
    return _weighted_mean(fn.mean, weights)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of values `[K, N, ...]` over K with weights `[K, N]`: `[N, ...]`."""
    return (weights.reshape(*weights.shape, *[1] * (values.dim() - 2)) * values).sum(0)
