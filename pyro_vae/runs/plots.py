"""Figures from arrays; no model code. Data that are no images are drawn as points (2-D) or lines."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.errors import datapoints
from pyro_vae.runs import files

DPI = 120

MAX_PIXELS = 2000
"""Limit of a picture's side: a figure does not show more."""

MAX_POINTS, MAX_ON_A_LINE = 50_000, 500
"""Limits of all lines together and of one: dimensions of long vectors are left out, then every n-th vector is kept."""

Limits = tuple[float, float]
"""The values that are drawn black and white."""


def samples(x: np.ndarray, path: Path, limits: Limits = (0.0, 1.0), columns: int | None = None) -> None:
    """Draws x `[n, *data_shape]` from the generative model, for images their means, to a PNG.

    With `columns` a column for each class of a conditional model.
    """
    prior = "p(z)" if columns is None else "p(z | y), y = 0, 1, …"
    if is_image(x):
        title = f"Samples: means of p(x | z), z ~ {prior}" + (", a column each" if columns else "")
        _save(_picture(tile(x, columns or math.ceil(math.sqrt(len(x))), limits), title), path)
        return
    figure, ax = _figure(f"Samples x ~ p(x | z), z ~ {prior}")
    _draw_vectors(ax, x, "C0", "samples")
    _save(figure, path)


def reconstructions(x: np.ndarray, reconstruction: np.ndarray, path: Path, limits: Limits = (0.0, 1.0)) -> None:
    """Data x `[n, *data_shape]` above, or beneath, their reconstructions of the same shape, to a PNG."""
    if is_image(x):
        both = np.concatenate([x, reconstruction])
        _save(_picture(tile(both, len(x), limits), "Test data (above) and their reconstructions (below)"), path)
        return
    figure, ax = _figure("Test data and their reconstructions")
    _draw_vectors(ax, x, "C0", "data")
    _draw_vectors(ax, reconstruction, "C1", "reconstructions")
    ax.legend()
    _save(figure, path)


def training(rows: list[dict[str, float]], path: Path) -> None:
    """ELBO and KL against epochs, from the rows of metrics.csv, to a PNG."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("train/elbo", "val/elbo"):
        elbo = np.array([row[name] for row in rows])
        if name == "train/elbo" or not np.isnan(elbo).all():  # no curve in the legend that is not drawn
            left.plot(epochs, elbo, label=name, marker="." if len(rows) < 3 else None)
    # validation, training without it; the first epochs would flatten all that follows
    shown = np.array([row["train/elbo" if np.isnan(row["val/elbo"]) else "val/elbo"] for row in rows] or [0.0])
    left.set_ylim(bottom=np.quantile(shown, 0.1) - 0.5 * np.ptp(shown[len(shown) // 10 :]) - 1)
    left.set(title="Evidence lower bound", xlabel="epoch", ylabel="nats per datapoint")
    left.legend(loc="lower right")
    right.plot(epochs, [row["train/kl"] for row in rows], color="C2", marker="." if len(rows) < 3 else None)
    right.set(title="KL(q(z | x) ‖ p(z)), training", xlabel="epoch", ylabel="nats per datapoint")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def latent(z: np.ndarray, y: np.ndarray | None, path: Path) -> None:
    """Embeddings z `[n, 2]`, coloured by labels y `[n]` where there are any, to a PNG."""
    figure, ax = _figure("Embedding of the test data: means of q(z | x)", size=(6, 5.4))
    labels = [] if y is None else list(np.unique(y))
    if 1 < len(labels) <= 20:
        for label in labels:
            ax.scatter(z[y == label, 0], z[y == label, 1], s=10, label=str(label))
        ax.legend(title="y", loc="upper right", fontsize="small")
    else:
        ax.scatter(z[:, 0], z[:, 1], s=10, c=y, cmap=None if y is None else "turbo")
    ax.set(xlabel="z₁", ylabel="z₂", aspect="equal")
    ax.grid(alpha=0.3)
    _save(figure, path)


def manifold(x: np.ndarray, path: Path, limits: Limits = (0.0, 1.0), over: str = "the quantiles of p(z)") -> None:
    """Decoded grid of a 2-D latent, x `[rows², *data_shape]`, to a PNG."""
    side = math.isqrt(len(x))
    title = f"Means of p(x | z) over {over}"
    if is_image(x):
        _save(_picture(tile(x, side, limits), title), path)
        return
    figure, ax = _figure(title)
    _draw_vectors(ax, x, "C0", "means")
    _save(figure, path)


def histogram(log_px: np.ndarray, x: np.ndarray, path: Path, limits: Limits = (0.0, 1.0)) -> None:
    """Histogram of log p(x) `[N]`; under it the 8 least and 8 most likely of x `[N, *data_shape]`, to a PNG."""
    order = np.argsort(log_px)
    figure = Figure(figsize=(8, 5.2) if is_image(x) else (8, 3.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(3 if is_image(x) else 1, 1, **_rows(3 if is_image(x) else 1)))
    axes[0].hist(log_px, bins=min(50, max(5, len(log_px) // 5)))
    axes[0].set(title=f"log p(x) of {datapoints(len(log_px))}", xlabel="nats", ylabel="datapoints")
    if is_image(x):
        for ax, index, title in ((axes[1], order[:8], "least likely"), (axes[2], order[::-1][:8], "most likely")):
            ax.imshow(tile(x[index], 8, limits), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            ax.set_title(title, fontsize="medium")
            ax.set_axis_off()
    _save(figure, path)


def curve(num_samples: list[int], log_px: list[float], se: list[float], path: Path) -> None:
    """Mean log p̂_K(x) against K, with two standard errors of the estimator's own noise, to a PNG."""
    figure, ax = _figure("log p̂(x) from the first K of one set of samples", size=(6, 4))
    ax.errorbar(num_samples, log_px, yerr=2 * np.array(se, dtype=float), marker="o", capsize=3)
    ax.set(xscale="log", xlabel="K", ylabel="nats per datapoint")
    ax.grid(alpha=0.3)
    _save(figure, path)


def tails(tail: np.ndarray, pareto_k: np.ndarray, path: Path, k_threshold: float | None = None) -> None:
    """Largest normalized log-weights `[M, N]` of the datapoints with the lowest, median and highest Pareto k, to a PNG.

    The legend tells which k are above `k_threshold`. None: there are none, and it is the largest weight that counts.
    """
    figure, ax = _figure("Largest importance weights: how much rests on a few draws", size=(6, 4))
    order = np.argsort(tail[0] if k_threshold is None else np.nan_to_num(pareto_k, nan=np.inf))
    for name, i in (("lowest", order[0]), ("median", order[len(order) // 2]), ("highest", order[-1])):
        label = f"{name} share of the largest weight"
        if k_threshold is not None:
            above = f", unreliable above {k_threshold:.2f}" if pareto_k[i] > k_threshold else ""
            label = f"{name} Pareto k: {pareto_k[i]:.2f}{above}"
        ax.plot(np.arange(1, len(tail) + 1), np.exp(tail[:, i]), label=label, marker=".")
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="share of the total weight")
    ax.legend()
    ax.grid(alpha=0.3)
    _save(figure, path)


def gaps(rows: dict[str, dict[str, float]], path: Path) -> None:
    """log p(x) − ELBO of each set as a bar of its approximation and its amortization gap, to a PNG."""
    figure, ax = _figure("log p(x) − ELBO", size=(5, 4))
    names = list(rows)
    approximation = np.array([rows[name]["approximation_gap"] for name in names])
    amortization = np.array([rows[name]["amortization_gap"] for name in names])
    ax.bar(names, approximation, label="approximation: the family's best")
    ax.bar(names, amortization, bottom=approximation, label="amortization: the encoder's choice")
    ax.set(ylabel="nats per datapoint")
    ax.margins(y=0.3)  # room for the legend
    ax.legend(loc="upper left")
    _save(figure, path)


def _rows(n: int) -> dict[str, Any]:
    return {"height_ratios": [3.0, *[1.0] * (n - 1)]}


def is_image(x: np.ndarray) -> bool:
    """Whether datapoints of x `[n, *data_shape]` are images `[H, W]`, `[1, H, W]` or `[3, H, W]`.

    A few long rows or columns are time series: they are drawn as lines.
    """
    shape = x.shape[1:]
    if len(shape) != 2 and (len(shape) != 3 or shape[0] not in (1, 3)):
        return False
    short, long = sorted(shape[-2:])
    return short > 1 and (short >= 8 or long <= 4 * short)


def comparison(points: dict[str, list[float]], means: list[float], errors: list[float], path: Path) -> None:
    """log p(x) of runs, nats per datapoint, a line of points for each choice of options, and their means, to a PNG."""
    figure, ax = _figure("log p(x) of the runs, their mean ± standard error", (8, 1.2 + 0.4 * len(points)))
    for i, values in enumerate(points.values()):
        ax.scatter(values, [i] * len(values), s=12, color="C0", alpha=0.6, label="a run" if i == 0 else None)
    ax.errorbar(means, range(len(means)), xerr=errors, fmt="D", ms=5, color="C1", capsize=4, label="mean")
    ax.set_yticks(range(len(points)), list(points), parse_math=False)
    ax.set_ylim(len(points) - 0.5, -0.5)
    ax.set_xlabel("nats per datapoint")
    ax.grid(axis="x", alpha=0.3)
    ax.legend()
    _save(figure, path)


def search(numbers: list[int], values: list[float], path: Path) -> None:
    """Validation ELBO of a search's trials, nats per datapoint, and the best so far, to a PNG."""
    figure, ax = _figure("Trials of the search")
    ax.scatter(numbers, values, s=14, color="C0", label="a trial")
    ax.step(numbers, np.maximum.accumulate(values), where="post", color="C1", label="best so far")
    low, high = np.quantile(values, 0.25), max(values)  # the worst would flatten the others
    ax.set_ylim(bottom=min(low, high) - 0.5 * (high - low) - 1e-3)
    ax.set(xlabel="trial", ylabel="validation ELBO, nats per datapoint")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    _save(figure, path)


def tile(x: np.ndarray, columns: int, limits: Limits = (0.0, 1.0)) -> np.ndarray:
    """Images `[n, (C,) H, W]` side by side, `columns` a row, thin lines between: `[H', W']` or `[H', W', 3]`.

    If the picture would exceed `MAX_PIXELS` a side, only every n-th pixel is kept.
    """
    if x.ndim == 3:
        x = x[:, None]
    rows = math.ceil(len(x) / columns)
    step = math.ceil(max(rows * x.shape[2], columns * x.shape[3]) / MAX_PIXELS)
    x = x[:, :, ::step, ::step]
    C, H, W = x.shape[1:]
    low, high = limits
    canvas = np.full((rows, columns, C, H + 1, W + 1), 0.5, dtype=np.float32)
    for i, image in enumerate(x):
        canvas[i // columns, i % columns, :, :H, :W] = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    picture = canvas.transpose(0, 3, 1, 4, 2).reshape(rows * (H + 1), columns * (W + 1), C)[:-1, :-1]
    return picture[..., 0] if C == 1 else picture


def _draw_vectors(ax: Axes, x: np.ndarray, color: str, label: str) -> None:
    if x.ndim > 2:  # the channels of a series one after the other
        x = np.moveaxis(x, 1 + np.argmax(x.shape[1:]), -1)
    x = x.reshape(len(x), -1)
    if x.shape[1] == 2:
        ax.scatter(x[:, 0], x[:, 1], s=12, color=color, alpha=0.7, label=label)
        ax.set(xlabel="x₁", ylabel="x₂", aspect="equal")
        return
    D = x.shape[1]
    dimensions = np.linspace(0, D - 1, min(D, MAX_ON_A_LINE)).astype(int)
    x = x[:: math.ceil(len(x) * len(dimensions) / MAX_POINTS), dimensions]
    alpha = min(1.0, 8 / len(x))
    # one artist for all: hundreds of lines of `plot` take a second
    ax.add_collection(LineCollection([np.column_stack([dimensions, v]) for v in x], color=color, alpha=alpha))
    points = np.broadcast_to(dimensions, x.shape)
    marker = "." if x.shape[1] < 30 else ""  # and the limits of the axes
    ax.plot(points.ravel(), x.ravel(), color=color, alpha=alpha, linestyle="", marker=marker)
    ax.plot([], [], color=color, label=label)
    ax.set(xlabel="dimension", ylabel="value")


def _figure(title: str, size: tuple[float, float] = (7, 4.5)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    ax.set_title(title)
    return figure, ax


def _picture(image: np.ndarray, title: str) -> Figure:
    """A figure that holds the picture alone, its pixels enlarged evenly."""
    height, width = image.shape[:2]
    inches = 7.0
    figure = Figure(figsize=(inches, inches * min(2.0, height / width) + 0.4), layout="constrained")
    ax = figure.subplots()
    ax.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set_title(title)
    ax.set_axis_off()
    return figure


def _save(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    files.write(path, png.getvalue())
