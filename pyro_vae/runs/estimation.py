"""Estimates of a VAE on a data split."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput, datapoints
from pyro_vae.marginal import Estimator, LogEvidence
from pyro_vae.marginal.summary import Summary, summarize, verdict
from pyro_vae.parallel import collectives
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.progress import progress
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs.baseline import Baseline
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def estimate(
    vae: VAE, data: Dataset, split: Split, estimator: Estimator, seed: int, independent: Baseline | None = None
) -> tuple[LogEvidence, Summary]:
    """Estimate log p(x) of a split; several processes share the work and all return the same.

    Args:
        vae: the model.
        data: the dataset of the split.
        split: the datapoints.
        estimator: of log p(x).
        seed: makes the estimates reproducible.
        independent: baselines to report beside the model.
    """
    set_seed(seed, collectives.rank())
    share = split.share()
    if len(split) < collectives.world_size():
        raise BadInput(f"{datapoints(len(split))} cannot be shared by {collectives.world_size()} processes")
    y = vae.taken_labels(share.y)
    evidence = estimator(*vae.programs(y), share.x, y)
    if independent is not None:
        evidence = independent.beside(evidence, share.x)
    evidence = LogEvidence.cat(collectives.gather(evidence.cpu()))
    summary = summarize(evidence, estimator.name, estimator.simulates)
    bits = bits_per_dim(summary.log_px, vae, data, split.x)
    return evidence, replace(summary, given=None if y is None else "y", bits_per_dim=bits)


def warn_of_doubts(evidence: LogEvidence, summary: Summary, estimator: Estimator, independent: Baseline | None) -> None:
    """Warn if too many estimates are unreliable, or if the model is below a baseline."""
    if warning := verdict(summary, estimator):
        log.warning(warning)
    if independent is not None:
        independent.warn(evidence)


def bits_per_dim(log_px: float | None, vae: VAE, data: Dataset, x: Tensor) -> float | None:
    """Convert log p(x) in nats to bits per dimension, for a discrete likelihood or dequantized data x `[N, ...]`.

    The density of data with uniform noise of one grey level bounds the probability of the level: −log p(x) /
    (D log 2) + log2(levels) bits are an upper bound (Theis, van den Oord & Bethge 2016, A note on the evaluation of
    generative models, https://arxiv.org/abs/1511.01844, §3.1).

    Returns:
        The bits; None for other densities, whose value depends on the unit of the data, and if log p(x) includes the
        mask's.
    """
    discrete = vae.likelihood.discrete
    if log_px is None or vae.missingness is not None or discrete == data.dequantize or vae.likelihood.check_observed(x):
        return None
    dims = int((~x.isnan()).sum()) / len(x)
    bits = -log_px / (max(dims, 1) * math.log(2))
    return bits if discrete else bits + math.log2(data.num_levels)


@torch.no_grad()
def reconstruction_error(vae: VAE, split: Split) -> float:
    """Return the mean squared difference of x and the mean of p(x | z) at its embedding, per observed entry.

    The columns of a table are compared as the encoder sees them, standardized.
    """
    seen = vae.standardize if vae.likelihood.columns else nn.Identity()
    total = 0.0
    with progress("reconstructing the test set", len(split), "datapoint") as tick:
        for x, y in chunks_in_memory(vae, split):
            pair = (torch.where(x.isnan(), 0.0, values) for values in (x, vae.reconstruct(x, y=y)))
            known, mean = map(seen, pair)
            total += (mean - known).square().sum().item()
            tick(len(x))
    return total / max(1, int((~split.x.isnan()).sum()))


def chunks_in_memory(vae: VAE, split: Split) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield chunks of x that fit into memory, with the labels that the VAE uses."""
    y = vae.taken_labels(split.y)
    return slices(rows_in_memory(1000, 1, vae.model, split.x, y), split.x, y)
