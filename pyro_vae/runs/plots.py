"""Figures from arrays. Each function returns the matplotlib axes it has drawn.

    ax = plots.samples(x)
    ax.figure.savefig("samples.png")

Data other than images are drawn as points (two values per datapoint) or lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.errors import datapoints

MAX_PIXELS = 2000
"""Largest side of a picture; a figure does not show more."""

MAX_POINTS, MAX_ON_A_LINE = 50_000, 500
"""Most points of all lines and of one line. Long vectors lose dimensions, then only every n-th vector is kept."""

Limits = tuple[float, float]
"""The values that are drawn black and white."""


def samples(x: np.ndarray, limits: Limits = (0.0, 1.0), columns: int | None = None) -> Axes:
    """Draw samples x `[n, *data_shape]` of the generative model; images should be means of p(x | z).

    Args:
        x: the samples.
        limits: the values that are drawn black and white.
        columns: number of classes of a conditional model, which get a column each.
    """
    prior = "p(z)" if columns is None else "p(z | y), y = 0, 1, …"
    if is_image(x):
        title = f"Samples: means of p(x | z), z ~ {prior}" + (", a column each" if columns else "")
        return _picture(tile(x, columns or math.ceil(math.sqrt(len(x))), limits), title)
    ax = _axes(f"Samples x ~ p(x | z), z ~ {prior}")
    _draw_vectors(ax, x, "C0", "samples")
    return ax


def reconstructions(x: np.ndarray, reconstruction: np.ndarray, limits: Limits = (0.0, 1.0)) -> Axes:
    """Draw data x `[n, *data_shape]` and their reconstructions, of the same shape, together."""
    if is_image(x):
        both = np.concatenate([x, reconstruction])
        return _picture(tile(both, len(x), limits), "Test data (above) and their reconstructions (below)")
    ax = _axes("Test data and their reconstructions")
    _draw_vectors(ax, x, "C0", "data")
    _draw_vectors(ax, reconstruction, "C1", "reconstructions")
    ax.legend()
    return ax


def training(rows: Sequence[Mapping[str, float]]) -> tuple[Axes, Axes]:
    """Draw the ELBO and, on the second axes, the KL against epochs, from the rows of metrics.csv."""
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("train/elbo", "val/elbo"):
        elbo = np.array([row[name] for row in rows])
        if name == "train/elbo" or not np.isnan(elbo).all():  # the legend names only what is drawn
            left.plot(epochs, elbo, label=name, marker="." if len(rows) < 3 else None)
    if len(rows) >= 5:  # the first ones would flatten the rest of the curve
        shown = np.array([row["train/elbo" if np.isnan(row["val/elbo"]) else "val/elbo"] for row in rows])
        left.set_ylim(bottom=np.quantile(shown, 0.1) - 0.5 * np.ptp(shown[len(shown) // 10 :]) - 1)
    left.set(title="Evidence lower bound", xlabel="epoch", ylabel="nats per datapoint")
    left.legend(loc="lower right")
    right.plot(epochs, [row["train/kl"] for row in rows], color="C2", marker="." if len(rows) < 3 else None)
    right.set(title="KL(q(z | x) ‖ p(z)), training", xlabel="epoch", ylabel="nats per datapoint")
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return left, right


def latent(z: np.ndarray, y: np.ndarray | None = None) -> Axes:
    """Draw embeddings z `[n, 2]`, coloured by labels y `[n]` if given."""
    ax = _axes("Embedding of the test data: means of q(z | x)", size=(6, 5.4))
    labels = [] if y is None else list(np.unique(y))
    if 1 < len(labels) <= 20:
        for label in labels:
            ax.scatter(z[y == label, 0], z[y == label, 1], s=10, label=str(label))
        ax.figure.legend(title="y", loc="outside right center", fontsize="small")
    else:
        ax.scatter(z[:, 0], z[:, 1], s=10, c=y, cmap=None if y is None else "turbo")
    ax.set(xlabel="z₁", ylabel="z₂", aspect="equal")
    ax.grid(alpha=0.3)
    return ax


def manifold(x: np.ndarray, limits: Limits = (0.0, 1.0), over: str = "the quantiles of p(z)") -> Axes:
    """Draw the decoded grid of a 2-D latent, x `[rows², *data_shape]`; `over` describes the grid in the title."""
    side = math.isqrt(len(x))
    title = f"Means of p(x | z) over {over}"
    if is_image(x):
        return _picture(tile(x, side, limits), title)
    ax = _axes(title)
    _draw_vectors(ax, x, "C0", "means")
    return ax


def histogram(
    log_px: np.ndarray, x: np.ndarray, limits: Limits = (0.0, 1.0), name: str = "log p(x)"
) -> tuple[Axes, ...]:
    """Draw a histogram of log p(x) `[N]`, or of what `name` says, above the 8 least and most likely images of x."""
    order = np.argsort(log_px)
    figure = Figure(figsize=(8, 5.2) if is_image(x) else (8, 3.5), layout="constrained")
    heights = [3.0, 1.0, 1.0] if is_image(x) else [3.0]
    axes: tuple[Axes, ...] = tuple(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    axes[0].hist(log_px, bins=min(50, max(5, len(log_px) // 5)))
    axes[0].set(title=f"{name} of {datapoints(len(log_px))}", xlabel="nats", ylabel="datapoints")
    if is_image(x):
        for ax, index, title in ((axes[1], order[:8], "least likely"), (axes[2], order[::-1][:8], "most likely")):
            ax.imshow(tile(x[index], 8, limits), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            ax.set_title(title, fontsize="medium")
            ax.set_axis_off()
    return axes


def curve(
    num_samples: Sequence[int], log_px: Sequence[float | None], se: Sequence[float | None], name: str = "log p(x)"
) -> Axes:
    """Draw the mean of log p(x), or of the quantity `name`, against K, with two standard errors of its noise."""
    ax = _axes(f"{name}, estimated from the first K of one set of samples", size=(6, 4))
    mean, error = np.array(log_px, dtype=float), np.array(se, dtype=float)  # None becomes NaN
    ax.errorbar(num_samples, mean, yerr=2 * error, marker="o", capsize=3)
    ax.set(xscale="log", xlabel="K", ylabel="nats per datapoint")
    ax.grid(alpha=0.3)
    return ax


def tails(tail: np.ndarray, pareto_k: np.ndarray, k_threshold: float | None = None) -> Axes:
    """Draw the largest normalized weights of the datapoints with the lowest, median and highest Pareto k.

    Args:
        tail: logs of the weights in descending order, `[M, N]`.
        pareto_k: of each datapoint, `[N]`.
        k_threshold: the legend names the k above it. If None, there is no Pareto k, and the datapoints are those with
            the lowest, median and highest largest weight.
    """
    ax = _axes("Largest importance weights: how much rests on a few draws", size=(6, 4))
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
    return ax


def bounds(
    lower: np.ndarray, upper: np.ndarray, certified: np.ndarray | None = None, simulated: bool = False
) -> tuple[Axes, Axes]:
    """Draw both bounds on log p(x) of each datapoint, in ascending order, and the difference of the bounds.

    Args:
        lower: lower bounds, `[N]`.
        upper: upper bounds, `[N]`.
        certified: whether the Markov chains of each datapoint agree, `[N]`, if there are chains.
        simulated: whether the data are draws from the model.
    """
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    order, rank = np.argsort(lower), np.arange(1, len(lower) + 1)
    low, high = lower[order], upper[order]
    above.fill_between(rank, low, high, alpha=0.3, step="mid")
    above.plot(rank, high, drawstyle="steps-mid", label="upper bound")
    above.plot(rank, low, drawstyle="steps-mid", linestyle="--", label="lower bound")
    above.set(title=f"Bounds on log p(x){' of simulated data' if simulated else ''}", ylabel="nats")
    below.axhline(0, color="grey", linewidth=0.8)
    good = np.ones_like(rank, dtype=bool) if certified is None else certified[order].astype(bool)
    below.plot(rank[good], (high - low)[good], "o", markersize=4, label=None if certified is None else "certified")
    if not good.all():
        below.plot(rank[~good], (high - low)[~good], "x", color="C3", label="not certified")
    below.set(xlabel="datapoints, by their lower bound", ylabel="upper - lower, nats")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (above, below):
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small")
    return above, below


def gaps(names: Sequence[str], approximation: Sequence[float], amortization: Sequence[float]) -> Axes:
    """Draw log p(x) − ELBO of each named set as a bar of its approximation gap and its amortization gap, in nats."""
    ax = _axes("log p(x) − ELBO", size=(5, 4))
    ax.bar(names, approximation, label="approximation: the family's best")
    ax.bar(names, amortization, bottom=approximation, label="amortization: the encoder's choice")
    ax.set(ylabel="nats per datapoint")
    ax.margins(y=0.3)  # room for the legend
    ax.legend(loc="upper left")
    return ax


def is_image(x: np.ndarray) -> bool:
    """Return whether datapoints of x `[n, *data_shape]` are images `[H, W]`, `[1, H, W]` or `[3, H, W]`.

    A few long rows or columns are a time series, which is drawn as lines.
    """
    shape = x.shape[1:]
    if len(shape) != 2 and (len(shape) != 3 or shape[0] not in (1, 3)):
        return False
    short, long = sorted(shape[-2:])
    return short > 1 and (short >= 8 or long <= 4 * short)


def comparison(points: Mapping[str, Sequence[float]], means: Sequence[float], errors: Sequence[float]) -> Axes:
    """Draw log p(x) of runs, nats per datapoint: a row of points for each choice of options, with mean and error."""
    ax = _axes("log p(x) of the runs, their mean ± standard error", (8, 1.2 + 0.4 * len(points)))
    for i, values in enumerate(points.values()):
        ax.scatter(values, [i] * len(values), s=12, color="C0", alpha=0.6, label="a run" if i == 0 else None)
    ax.errorbar(means, range(len(means)), xerr=errors, fmt="D", ms=5, color="C1", capsize=4, label="mean")
    ax.set_yticks(range(len(points)), list(points), parse_math=False)
    ax.set_ylim(len(points) - 0.5, -0.5)
    ax.set_xlabel("nats per datapoint")
    ax.grid(axis="x", alpha=0.3)
    ax.legend()
    return ax


def search(numbers: Sequence[int], values: Sequence[float]) -> Axes:
    """Draw the validation ELBO of a search's trials, nats per datapoint, and the best so far."""
    ax = _axes("Trials of the search")
    ax.scatter(numbers, values, s=14, color="C0", label="a trial")
    ax.step(numbers, np.maximum.accumulate(values), where="post", color="C1", label="best so far")
    low, high = np.quantile(values, 0.25), max(values)  # the worst would flatten the others
    ax.set_ylim(bottom=min(low, high) - 0.5 * (high - low) - 1e-3)
    ax.set(xlabel="trial", ylabel="validation ELBO, nats per datapoint")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def tile(x: np.ndarray, columns: int, limits: Limits = (0.0, 1.0)) -> np.ndarray:
    """Tile images `[n, (C,) H, W]`, `columns` in a row, with thin lines between: `[H', W']` or `[H', W', 3]`.

    If a side of the picture would exceed `MAX_PIXELS`, only every n-th pixel is kept.
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
    if x.ndim > 2:  # draw the channels of a series one after the other
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
    # a single artist, since hundreds of lines of `plot` take a second
    ax.add_collection(LineCollection([np.column_stack([dimensions, v]) for v in x], color=color, alpha=alpha))
    points = np.broadcast_to(dimensions, x.shape)
    marker = "." if x.shape[1] < 30 else ""  # without it, `plot` only sets the limits of the axes
    ax.plot(points.ravel(), x.ravel(), color=color, alpha=alpha, linestyle="", marker=marker)
    ax.plot([], [], color=color, label=label)
    ax.set(xlabel="dimension", ylabel="value")


def _axes(title: str, size: tuple[float, float] = (7, 4.5)) -> Axes:
    ax = Figure(figsize=size, layout="constrained").subplots()
    ax.set_title(title)
    return ax


def _picture(image: np.ndarray, title: str) -> Axes:
    """Draw a picture without axes, its pixels enlarged evenly."""
    height, width = image.shape[:2]
    inches = 7.0
    ax = _axes(title, size=(inches, inches * min(2.0, height / width) + 0.4))
    ax.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set_axis_off()
    return ax
