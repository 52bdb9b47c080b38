"""Anomaly scores: how unusual new datapoints are under a model, compared with held-out data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.analysis.by_name import ByName
from pyro_vae.analysis.gaps import best_members, too_short
from pyro_vae.errors import Incompatible, datapoints, one_line, positive_int
from pyro_vae.marginal import ELBO, Estimator, LogEvidence
from pyro_vae.marginal.estimator import require_log_px
from pyro_vae.marginal.local import NUM_PARTICLES
from pyro_vae.programs.checks import require_programs, require_tensors
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.missing import entries
from pyro_vae.programs.progress import Shares, progress
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, trace

CAUTION = (
    "a density is not typicality: data unlike the training data can have a higher log p(x) (Nalisnick et al. 2019), so "
    "look at the least and the most likely rows, and test the scores on known anomalies"
)


@dataclass(frozen=True)
class Measures:
    """What `compare` needs to know of N datapoints.

    Attributes:
        evidence: log p(x), with standard errors and diagnostics.
        num_observed: number of entries that are not NaN, `[N]`.
        elbo: of the guide, nats, `[N]`.
        elbo_best: of the member of the guide's family that is fitted to each datapoint, nats, `[N]`; None if the family
            cannot be fitted, e.g. because latents are discrete.
        contributions: E_q[log p(x_d | z)] of each entry under that member, nats, `[N, ...]`, NaN where x is; None if
            the family cannot be fitted, or the entries of x depend on each other given z.
    """

    evidence: LogEvidence
    num_observed: Tensor
    elbo: Tensor
    elbo_best: Tensor | None
    contributions: Tensor | None


@dataclass(frozen=True)
class AnomalyScores(ByName[Any]):
    """How unusual N datapoints are, compared with M held-out datapoints. Fields can be read by name, too.

    A density is not typicality. Data unlike the training data can have a higher log p(x) than the training data, e.g.
    because they are simpler (Nalisnick et al. 2019, Do deep generative models know what they don't know?,
    https://arxiv.org/abs/1810.09136). Look at the least and at the most likely datapoints, at `regret` as well, and
    test the scores on anomalies that you know.

    Each tail probability is (r + 1) / (M + 1), where r held-out datapoints are at least as extreme. It is a p-value: if
    a datapoint comes from the same distribution as the held-out ones, whatever the model, it is at most α with
    probability α or less.

    Attributes:
        log_px: log p(x), nats, `[N]`.
        se: standard error of `log_px` over the estimator's noise, `[N]`.
        unreliable: whether not to rely on `log_px` and `se`, `[N]` (`LogEvidence.unreliable`).
        tail_probability: share of the held-out log p(x) that are at most `log_px`, `[N]`: small for unlikely data.
        tail_se: binomial standard error of `tail_probability`, because held-out datapoints are finitely many, `[N]`.
        elbo: ELBO of the guide, nats, `[N]`.
        elbo_best: largest ELBO of a member of the guide's family, fitted to each datapoint, nats, `[N]`, or None.
        regret: likelihood regret, `elbo_best - elbo`, nats, `[N]`, or None: how much the encoder misjudges x. The
            decoder is fixed, and the parameters of q are optimized for each datapoint (Xiao, Yan & Amit 2020,
            Likelihood regret, https://arxiv.org/abs/2003.02977). Noise can make it slightly negative.
        regret_tail_probability: share of the held-out regrets that are at least `regret`, `[N]`, or None.
        contributions: E_q[log p(x_d | z)], nats, `[N, *data_shape]`, or None: how well each entry x_d fits the z that
            explain the whole x, with the q of `elbo_best`. Their sum is `elbo_best` + KL(q ‖ p(z)), the reconstruction
            log-probability of An & Cho (2015), Variational autoencoder based anomaly detection using reconstruction
            probability. The encoder's q would do worse, as it is poor on unfamiliar x. NaN where x is.
        contribution_tail_probability: share of the held-out contributions of the same entry that are at most this one,
            `[N, *data_shape]`, or None. Entries have different units and noise, which this compares. An entry that is
            wrong draws z towards it, so that entries which depend on it look unusual as well (Ikeda et al. 2018,
            https://arxiv.org/abs/1811.04576).
        held_out_log_px: log p(x) of the held-out datapoints, nats, `[M]`.
    """

    log_px: Tensor
    se: Tensor
    unreliable: Tensor
    tail_probability: Tensor
    tail_se: Tensor
    elbo: Tensor
    elbo_best: Tensor | None
    regret: Tensor | None
    regret_tail_probability: Tensor | None
    contributions: Tensor | None
    contribution_tail_probability: Tensor | None
    held_out_log_px: Tensor


def measure(
    model: Program,
    guide: Program,
    x: Tensor,
    estimator: Estimator,
    y: Tensor | None = None,
    num_steps: int = 300,
    num_samples: int = 500,
    chunk_size: int = 100_000,
) -> Measures:
    """Measure how well a model explains data; call it for new and for held-out data, then `compare` them.

    Args:
        model: the generative model, whose observed site is `x`.
        guide: the guide.
        x: data, `[N, ...]`.
        estimator: estimates log p(x).
        y: labels of a conditional model, `[N]`.
        num_steps: gradient steps that fit the guide's family to each datapoint (`gaps`).
        num_samples: draws that estimate each ELBO and each contribution.
        chunk_size: pairs (draw, datapoint) in memory at once.

    Raises:
        BadInput: if the estimator does not estimate log p(x) of given data, or a number is out of range.

    Example:
        >>> new, held_out = (measure(vae.model, vae.guide, x, Auto()) for x in (x_new, x_val))  # doctest: +SKIP
        >>> compare(new, held_out).tail_probability                                              # doctest: +SKIP
    """
    require_tensors(x, y)
    require_programs(model, guide, y)
    for name, value in (("num_steps", num_steps), ("num_samples", num_samples), ("chunk_size", chunk_size)):
        positive_int(name, value)
    require_log_px(estimator)
    evidence = estimator(model, guide, x, y)
    with for_programs(x):
        x, y = ordinary(x), ordinary(y)
        elbo = ELBO(num_samples)(model, guide, x, y).log_px
        elbo_best, contributions = _fitted(model, guide, x, y, num_steps, num_samples, chunk_size)
    num_observed = (~x.isnan()).flatten(1).sum(1) if x.dim() > 1 else (~x.isnan()).long()
    return Measures(evidence, num_observed, elbo, elbo_best, contributions)


def compare(new: Measures, held_out: Measures) -> AnomalyScores:
    """Compare new datapoints with held-out ones of the same model, measured with the same settings.

    Warns if datapoints have fewer or more observed entries than all held-out ones, since their log p(x_obs) is then not
    comparable.
    """
    fewest, most = held_out.num_observed.aminmax()
    if others := int(((new.num_observed < fewest) | (new.num_observed > most)).sum()):
        observed = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        instead = "" if new.contributions is None else ", see their contributions instead"
        warnings.warn(
            f"{others} of {datapoints(len(new.elbo))} do not have {observed} observed entries, as the held-out ones "
            f"have: their log p(x_obs) and regret do not compare{instead}",
            stacklevel=4,
        )
    log_px, known = new.evidence.log_px, held_out.evidence.log_px
    p = tail_probability(log_px, known)
    regret = regret_tail = contribution_tail = None
    if new.elbo_best is not None and held_out.elbo_best is not None:
        regret = new.elbo_best - new.elbo
        regret_tail = tail_probability(-regret, held_out.elbo - held_out.elbo_best)
    if new.contributions is not None and held_out.contributions is not None:
        contribution_tail = tail_probability(new.contributions, held_out.contributions)
    return AnomalyScores(
        log_px=log_px,
        se=new.evidence.se,
        unreliable=new.evidence.unreliable,
        tail_probability=p,
        tail_se=(p * (1 - p) / len(known)).sqrt(),
        elbo=new.elbo,
        elbo_best=new.elbo_best,
        regret=regret,
        regret_tail_probability=regret_tail,
        contributions=new.contributions,
        contribution_tail_probability=contribution_tail,
        held_out_log_px=known,
    )


def tail_probability(values: Tensor, held_out: Tensor) -> Tensor:
    """Return (r + 1) / (m + 1) for each of `values` `[N, ...]`, where r of the m held-out values are at most it.

    Args:
        values: the values, `[N, ...]`; NaN gives NaN.
        held_out: `[M, ...]`; each entry is compared with the m values of the same entry that are not NaN.
    """
    known = held_out.flatten(1).T if held_out.dim() > 1 else held_out.unsqueeze(0)  # [D, M]
    x = values.flatten(1).T if values.dim() > 1 else values.unsqueeze(0)
    m = (~known.isnan()).sum(1, keepdim=True)
    ordered = known.nan_to_num(torch.inf, torch.inf, -torch.inf).sort(1).values.contiguous()
    r = torch.searchsorted(ordered, x.contiguous(), right=True).clamp(max=m)  # NaN, as infinity, is last
    p = ((r + 1).double() / (m + 1)).where(~x.isnan(), torch.nan)
    return p.T.reshape(values.shape)


def _fitted(
    model: Program, guide: Program, x: Tensor, y: Tensor | None, num_steps: int, num_samples: int, chunk_size: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return `elbo_best` and `contributions` of `Measures`, or None with a warning."""
    rows = rows_in_memory(chunk_size, max(num_samples, NUM_PARTICLES), model, x, y)
    best, parts, rising = [], [], []
    with progress(f"fitting q(z) to each of {datapoints(len(x))}", len(x), "datapoint") as tick:
        for x_n, y_n in slices(rows, x, y):
            shares = Shares(tick, len(x_n), num_steps + num_steps // 2)
            try:
                latents = _latents(model, x_n, y_n)
                elbo, rises, u = best_members(latents, model, guide, x_n, y_n, num_steps, num_samples, on_step=shares)
            except (Incompatible, TypeError, NotImplementedError) as error:
                warnings.warn(
                    f"no likelihood regret and no contributions of entries: q(z) cannot be fitted to single datapoints "
                    f"({one_line(error)})",
                    stacklevel=5,
                )
                return None, None
            best.append(elbo)
            rising.append(rises)
            parts.append(_contributions(latents, model, x_n, y_n, u))
    so = "the ELBO still rises for {share} of datapoints, whose likelihood regret is too small"
    if (warning := too_short(torch.cat(rising), num_steps, so)) is not None:
        warnings.warn(warning, stacklevel=5)
    contributions = [part for part in parts if part is not None]
    return torch.cat(best), torch.cat(contributions) if contributions else None


def _latents(model: Program, x: Tensor, y: Tensor | None) -> Latents:
    """Return latents on the whole real line.

    Raises:
        Incompatible: if there are others.
    """
    latents = Latents.of(model, x, y)
    if latents.is_constrained:
        raise Incompatible("latents are not on the whole real line")
    return latents


@torch.no_grad()
def _contributions(latents: Latents, model: Program, x: Tensor, y: Tensor | None, u: Tensor) -> Tensor | None:
    """Return the mean of log p(x_d | z) over draws u `[S, N, D]`, `[N, ...]`; None if p(x | z) does not factorize."""
    values, _ = latents.unpack(u)
    site: Any = trace(poutine.condition(model, values), x, y, num_samples=len(u)).nodes.get("x")
    if site is None:
        return None
    entry, _ = entries(site["fn"])
    if entry.event_shape:
        return None
    log_p: Tensor = entry.log_prob(site["value"])
    return log_p.double().mean(0).where(~x.isnan(), torch.nan)
