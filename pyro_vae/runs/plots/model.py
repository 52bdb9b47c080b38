"""Figures of a trained model: samples, reconstructions, training, latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.runs.plots import vectors
from pyro_vae.runs.plots.images import Limits, is_image, picture
from pyro_vae.runs.plots.style import CLASSES, GREEN, integers, legend_below, one_axes, short, styled


@styled
def samples(
    x: np.ndarray,
    limits: Limits = (0.0, 1.0),
    columns: int | None = None,
    data: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> Axes:
    """Draw samples x `[n, *data_shape]` of the generative model; images should be means of p(x | z).

    Args:
        x: the samples.
        limits: the values that are drawn black and white.
        columns: number of classes of a conditional model, which get a column each.
        data: `[m, *data_shape]`, drawn behind samples that are not images.
        classes: names of the classes; by default, their numbers.
    """
    prior = "p(z)" if columns is None else "p(z | y)"
    if not is_image(x):
        return vectors.samples(x, data, f"Samples x ~ p(x | z), z ~ {prior}")
    title = f"Samples: means of p(x | z), z ~ {prior}"
    if columns is None:
        return picture(x, math.ceil(math.sqrt(len(x))), limits, title)
    names = [_named(y, classes) for y in range(columns)]
    return picture(x, columns, limits, f"{title}, a column for each y", above=[short(name, 9) for name in names])


@styled
def reconstructions(x: np.ndarray, reconstruction: np.ndarray, limits: Limits = (0.0, 1.0)) -> Axes:
    """Draw data x `[n, *data_shape]` and their reconstructions, of the same shape, together."""
    title = "Test data and their reconstructions"
    if is_image(x):
        both = np.concatenate([x, reconstruction])
        return picture(both, len(x), limits, title, beside=["data", "model"])
    if vectors.as_rows(x):
        title = "Pairs of rows: test data, and below each its reconstruction"
    return vectors.reconstructions(x, reconstruction, title)


@styled
def training(rows: Sequence[Mapping[str, float]]) -> tuple[Axes, Axes]:
    """Draw the ELBO and, on the second axes, the KL against epochs, from the rows of metrics.csv."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "." if len(rows) < 3 else None
    curves = []
    for name, label in (("train/elbo", "training"), ("val/elbo", "validation")):
        elbo = np.array([row[name] for row in rows])
        if name == "train/elbo" or not np.isnan(elbo).all():  # the legend names only what is drawn
            left.plot(epochs, elbo, label=label, marker=marker)
            curves.append(elbo[~np.isnan(elbo)])
    if len(rows) >= 5:  # the first ones would flatten the rest of the curve
        left.set_ylim(bottom=min(map(_bottom, curves)))
    left.set(title="Evidence lower bound", xlabel="epoch", ylabel="nats per datapoint")
    legend_below(left)
    right.plot(epochs, [row["train/kl"] for row in rows], color=GREEN, marker=marker)
    right.set(title="KL(q(z | x) ‖ p(z)), training", xlabel="epoch", ylabel="nats per datapoint")
    integers(left.xaxis, right.xaxis)
    return left, right


@styled
def latent(z: np.ndarray, y: np.ndarray | None = None, classes: Sequence[str] = ()) -> Axes:
    """Draw embeddings z `[n, 2]`, coloured by labels y `[n]` if given, which may have names."""
    ax = one_axes("Embedding of the test data: means of q(z | x)", height=5.2)
    figure: Any = ax.figure
    labels = [] if y is None else list(np.unique(y))
    if 1 < len(labels) <= 2 * len(CLASSES):
        for i, label in enumerate(labels):
            color, marker = CLASSES[i % len(CLASSES)], "o^"[i // len(CLASSES)]
            name = short(_named(label, classes), 20)
            ax.scatter(z[y == label, 0], z[y == label, 1], s=14, lw=0, color=color, marker=marker, label=name)
        legend = figure.legend(title="y", loc="outside right center", markerscale=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        points = ax.scatter(z[:, 0], z[:, 1], s=14, lw=0, c=y, cmap=None if y is None else "viridis")
        if y is not None:
            figure.colorbar(points, label="y")
    ax.set(xlabel="z₁", ylabel="z₂", aspect="equal", adjustable="datalim")
    return ax


@styled
def manifold(
    x: np.ndarray, limits: Limits = (0.0, 1.0), over: str = "the quantiles of p(z)", data: np.ndarray | None = None
) -> Axes:
    """Draw the decoded grid of a 2-D latent, x `[rows², *data_shape]`.

    Args:
        x: the decoded grid, in rows of increasing z₁ whose z₂ falls from row to row.
        limits: the values that are drawn black and white.
        over: describes the grid in the title.
        data: `[m, *data_shape]`, drawn behind points of the plane.
    """
    side = math.isqrt(len(x))
    title = f"Means of p(x | z) over {over}"
    if not is_image(x):
        return vectors.manifold(x, side, title, data)
    ax = picture(x, side, limits, title)
    ax.set(xlabel="z₁", ylabel="z₂")
    return ax


def _bottom(elbo: np.ndarray) -> float:
    """Return the least ELBO that is shown."""
    return float(np.quantile(elbo, 0.1) - 0.5 * np.ptp(elbo[len(elbo) // 10 :]) - 1)


def _named(label: float, classes: Sequence[str]) -> str:
    if label < 0:
        return "missing"
    if label >= len(classes):
        return f"{label:g}"
    name = str(classes[int(label)]) or "(empty)"
    return f" {name}" if name.startswith("_") else name  # legends leave labels out that start with an underscore
