"""Figures of a run, drawn and saved: plots/ and those beside evaluations/NAME-K.json."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.data import Split
from pyro_vae.data.schema import modelled
from pyro_vae.errors import BadInput, one_line
from pyro_vae.marginal import LogEvidence
from pyro_vae.marginal.evidence import STAGES
from pyro_vae.marginal.summary import Summary
from pyro_vae.programs.progress import progress
from pyro_vae.runs import files, plots
from pyro_vae.runs.estimation import chunks_in_memory
from pyro_vae.runs.plots import stages, tables
from pyro_vae.runs.plots.style import styled
from pyro_vae.vae import VAE
from pyro_vae.vae.context import Covariates

log = logging.getLogger(__name__)

DPI = 150

NUM_DRAWN = 2000
"""Samples of a table, at least: more than test rows, so that they show the model rather than noise."""

NUM_BEHIND = 1000
"""Datapoints that are drawn behind samples."""


@styled
def save(axes: Axes | Sequence[Axes], path: Path) -> None:
    """Save the figure of `axes` as a PNG."""
    ax = axes if isinstance(axes, Axes) else axes[0]
    png = io.BytesIO()
    cast(Figure, ax.figure).savefig(png, format="png", dpi=DPI)
    files.write(path, png.getvalue())


@contextmanager
def drawing(folder: Path) -> Iterator[None]:
    """Show progress while figures are drawn. If one fails, e.g. with infinite values, warn and skip the rest."""
    try:
        with progress("drawing figures", 1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about extreme values, and labels that are too long or not in the font
            yield
    except BadInput:
        raise
    except (ValueError, ArithmeticError) as error:
        log.warning(
            "a figure in %s cannot be drawn, it and the following ones are skipped: %s", folder, one_line(error)
        )


@torch.no_grad()
def draw_run(vae: VAE, test: Split, rows: list[dict[str, float]], folder: Path, classes: Sequence[str] = ()) -> None:
    """Draw the figures of plots/ from a trained VAE, its test set, the rows of metrics.csv and names of classes."""
    if vae.likelihood.columns:
        _draw_table(vae, test, rows, folder)
        return
    limits = _limits(test.x)
    shown = test.first(min(10 if test.x[0].numel() > 2 else 100, len(test)))
    image = plots.is_image(array(shown.x))
    behind = None if image else array(test.x[:NUM_BEHIND])
    if vae.num_classes is None:
        n, y = 64 if image else 500, vae.taken_labels(test.y)
        columns, drawn = None, vae.sample(n, y=None if y is None else y[torch.arange(n) % len(y)], mean=image)
    else:  # a column for each class
        columns = min(vae.num_classes, 10)
        drawn = vae.sample(8 * columns, y=torch.arange(columns).repeat(8), mean=image)
    save(plots.samples(array(drawn), limits, columns, behind, classes), folder / "samples.png")
    reconstruction = vae.reconstruct(shown.x, y=vae.taken_labels(shown.y))
    save(plots.reconstructions(array(shown.x), array(reconstruction), limits), folder / "reconstructions.png")
    _draw_training(rows, folder)
    if vae.latent_dim[0] == 2:
        _draw_latent(vae, test, folder, classes)
        save(_manifold(vae, limits, behind, classes), folder / "manifold.png")


def _draw_table(vae: VAE, test: Split, rows: list[dict[str, float]], folder: Path) -> None:
    columns = modelled(vae.likelihood.columns)
    y, repeats = vae.taken_labels(test.y), math.ceil(NUM_DRAWN / len(test))
    drawn = vae.sample(repeats * len(test), y=None if y is None else torch.cat([y] * repeats))
    save(tables.samples(columns, array(test.x), array(drawn)), folder / "samples.png")
    shown = test.first(min(1000, len(test)))
    mean = vae.reconstruct(shown.x, y=vae.taken_labels(shown.y))
    save(tables.reconstructions(columns, array(shown.x), array(mean)), folder / "reconstructions.png")
    _draw_training(rows, folder)
    if vae.latent_dim[0] == 2:
        _draw_latent(vae, test, folder)


def _draw_training(rows: list[dict[str, float]], folder: Path) -> None:
    if rows:
        save(plots.training(rows), folder / "training.png")
    else:
        log.warning("metrics.csv has no rows: %s is left out", folder / "training.png")


def _draw_latent(vae: VAE, test: Split, folder: Path, classes: Sequence[str] = ()) -> None:
    z = torch.cat([vae.encode(x, y=y) for x, y in chunks_in_memory(vae, test)])
    y = None if test.y is None or test.y.ndim > 1 else array(test.y)  # covariates would need several colours
    save(plots.latent(array(z), y, classes), folder / "latent.png")


def _limits(x: torch.Tensor) -> tuple[float, float]:
    """Return the range of the observed entries of x, without outliers that would flatten the colours of the rest."""
    low, high = x.nan_to_num(torch.inf).min().item(), x.nan_to_num(-torch.inf).max().item()
    first, last = np.nanquantile(array(x), (0.001, 0.999)).tolist()
    return (first, last) if first < last and high - low > 3 * (last - first) else (low, high)


def _manifold(vae: VAE, limits: tuple[float, float], behind: np.ndarray | None, classes: Sequence[str]) -> Axes:
    """Decode a grid of quantiles of the prior, which have equal shares of p(z), or all values of a discrete z."""
    y: Any
    y, p_z = (None, "p(z)") if vae.num_classes is None else (0, f"p(z | y), y = {classes[0] if classes else 0}")
    if isinstance(vae.context, Covariates):
        y, p_z = vae.context.example(torch.empty(0)), "p(z | y), y = its mean"
    draws = vae.sample_z(10_000, y=y)
    values = draws.unique(dim=0)
    if len(values) <= draws.shape[-1]:
        return plots.manifold(array(vae.decode(values, y=y)), limits, "the values of z", behind)
    levels = torch.linspace(0.02, 0.98, 16, device=draws.device)
    first, second = draws.quantile(levels, dim=0).unbind(-1)
    grid = torch.stack(torch.meshgrid(first, second.flip(0), indexing="xy"), dim=-1)
    return plots.manifold(array(vae.decode(grid.flatten(0, 1), y=y)), limits, f"the quantiles of {p_z}", behind)


def draw_evidence(evidence: LogEvidence, summary: Summary, split: Split, path: Path) -> None:
    """Draw the figures beside evaluations/NAME-K.json, at `path`."""

    def beside(name: str) -> Path:
        return path.with_name(f"{path.stem}-{name}.png")

    name, by = "ELBO" if summary.is_bound else "log p(x)", summary.estimator
    if not summary.simulated:
        save(plots.histogram(array(evidence.log_px), array(split.x), _limits(split.x), name, by), beside("histogram"))
    if (upper := evidence.extra.get("log_px_upper")) is not None:
        certified = evidence.extra.get("certified")
        chains = None if certified is None else array(certified)
        ends = array(evidence.log_px), array(upper)
        save(plots.bounds(*ends, chains, summary.simulated, by), beside("bounds"))
    if evidence.stages is not None and "seconds" in evidence.extra:
        seconds, lower = array(evidence.extra["seconds"]), array(evidence.extra["log_px_lower"])
        save(stages.stages(STAGES, evidence.stages, seconds, evidence.status), beside("stages"))
        estimates = (array(evidence.log_px), lower, array(evidence.elbo), array(evidence.se))
        save(stages.lower_bounds(*estimates, evidence.status), beside("bounds"))
    if evidence.tail is not None and len(evidence.tail) > 1:
        k = array(evidence.pareto_k)
        save(plots.tails(array(evidence.tail), k, evidence.k_threshold, by), beside("tails"))
    if summary.curve:
        K, means, se = zip(*((p.num_samples, p.log_px, p.log_px_mc_se) for p in summary.curve), strict=True)
        save(plots.curve(K, means, se, name, by), beside("curve"))


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array."""
    return tensor.cpu().numpy()
