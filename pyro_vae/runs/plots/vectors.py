"""Datapoints that are vectors: a histogram, points, intervals, rows of a heat map, or lines.

One value a datapoint is drawn as a histogram, two as a point. Of up to `MAX_DIMENSIONS` values, each dimension has an
interval, and datapoints are rows of a heat map, as are integers. All others are lines: time series and their channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.runs.plots.style import BLUE, DATA, GREEN, MODEL, ORANGE, WIDTH, integers, legend_below, one_axes

MAX_DIMENSIONS, MAX_ON_A_LINE, MAX_CHANNELS = 24, 500, 3
PAIRS = ((BLUE, "#9CCBE8"), (ORANGE, "#F5D58C"), (GREEN, "#8FD9C3"))
"""A dark and a light colour of each channel of a series."""
NUM_ROWS = 40
"""Datapoints of a heat map that compares samples with data."""


def samples(x: np.ndarray, data: np.ndarray | None, title: str) -> Axes:
    """Draw samples x `[n, *data_shape]` over data `[m, *data_shape]`, if given."""
    D = x[0].size
    if D == 1:
        ax = one_axes(title)
        given = np.empty(0) if data is None else _observed(data)
        edges = np.histogram_bin_edges(np.concatenate([x.ravel(), given]), 30).tolist()
        if len(given):
            ax.hist(given, edges, density=True, color=DATA, alpha=0.5, label="data")
        ax.hist(x.ravel(), edges, density=True, color=MODEL, histtype="step", label="samples")
        ax.set(xlabel="x", ylabel="density")
    elif D == 2:
        ax = _plane(title)
        if data is not None:
            _points(ax, data, DATA, "data")
        _points(ax, x, MODEL, "samples")
    elif not as_rows(x):
        given = x[:0] if data is None else data[:8]
        return _lines(title, np.concatenate([given, x[:8]]), 4, num_given=len(given))
    elif D <= MAX_DIMENSIONS:
        ax = one_axes(title)
        if data is not None:
            _intervals(ax, data, DATA, "data", -0.17)
        _intervals(ax, x, MODEL, "samples", 0.17 * (data is not None))
        ax.set(xlabel="dimension", ylabel="value: 5, 25, 50, 75, 95 %, mean ◇")
        integers(ax.xaxis)
    else:
        names, rows = ["samples"], [x[:NUM_ROWS]]
        if data is not None:
            names, rows = ["data", *names], [data[:NUM_ROWS], *rows]
        return _rows(title, np.concatenate(rows), np.cumsum([0, *map(len, rows)]).tolist(), names)
    legend_below(ax)
    return ax


def reconstructions(x: np.ndarray, reconstruction: np.ndarray, title: str) -> Axes:
    """Draw data x `[n, *data_shape]` and their reconstructions, of the same shape, in pairs."""
    n, D = len(x), x[0].size
    if D == 1:
        ax = one_axes(title)
        ax.axline((float(np.nanmean(x)),) * 2, slope=1, color="0.3", lw=0.8)
        ax.plot(x.ravel(), reconstruction.ravel(), "o", ms=4, color=MODEL)
        ax.set(xlabel="x", ylabel="reconstruction")
        return ax
    if D == 2:
        ax = _plane(title)
        pairs = [np.stack(pair) for pair in zip(x.reshape(n, 2), reconstruction.reshape(n, 2), strict=True)]
        ax.add_collection(LineCollection(pairs, color="0.7", lw=1))
        _points(ax, x, DATA, "data", size=30)
        _points(ax, reconstruction, MODEL, "reconstructions", size=30)
        legend_below(ax)
        return ax
    if not as_rows(x):
        return _lines(title, reconstruction[:8], 4, pairs=x[:8])
    label, known = "value", _observed(x)
    if not (known == known.round()).all():  # dimensions may have different units
        low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
        x, reconstruction = ((v - low) / np.maximum(high - low, 1e-12) for v in (x, reconstruction))
        label = "0, 1: least and largest datum of a dimension"
    together = np.stack([x, reconstruction], axis=1).reshape(2 * n, D)
    return _rows(title, together, range(0, 2 * n + 1, 2), [f"{i + 1}" for i in range(n)], label)


def manifold(x: np.ndarray, side: int, title: str, data: np.ndarray | None) -> Axes:
    """Draw the decoded grid of a 2-D latent, x `[rows * side, *data_shape]`, z₂ falling from row to row."""
    n, D = len(x), x[0].size
    rows = n // side
    if D == 2:
        ax = _plane(title)
        if data is not None:
            _points(ax, data, DATA, "data")
        grid = x.reshape(rows, side, 2)
        ax.add_collection(LineCollection([*grid, *grid.swapaxes(0, 1)], color=MODEL, lw=0.8))
        _points(ax, x, MODEL, "means", size=6)
        legend_below(ax)
        return ax
    if x.ndim > 2 or D > MAX_DIMENSIONS:
        first, second = (np.linspace(0, m - 1, min(m, 5)).astype(int) for m in (rows, side))
        return _lines(title, x.reshape(rows, side, *x.shape[1:])[np.ix_(first, second)].reshape(-1, *x.shape[1:]),
                      len(second))  # fmt: skip
    columns = math.ceil(math.sqrt(1.6 * D))
    ax = one_axes(title, height=0.8 + WIDTH / 1.6)
    maps = np.full((math.ceil(D / columns), columns, rows + 2, side + 1), np.nan)
    for j, values in enumerate(x.reshape(n, D).T):
        low, high = values.min(), values.max()
        scaled = ((values - low) / max(high - low, 1e-12)).reshape(rows, side)
        maps[j // columns, j % columns, 2:, :side] = scaled
        at = (j % columns * (side + 1) + side / 2 - 0.5, j // columns * (rows + 2) + 1.2)
        ax.text(*at, f"x{j + 1}: {low:.2g} to {high:.2g}".replace("-", "−"), ha="center", va="bottom", fontsize=7.5)
    ax.imshow(maps.swapaxes(1, 2).reshape(-1, columns * (side + 1)), cmap="cividis", interpolation="nearest",
              aspect="auto")  # fmt: skip
    ax.set(
        xticks=[], yticks=[], xlabel="z₁ in each map; dark: the least value of the dimension", ylabel="z₂ in each map"
    )
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    return ax


def as_rows(x: np.ndarray) -> bool:
    """Return whether datapoints of x `[n, *data_shape]` are drawn as rows of a heat map."""
    known = _observed(x)
    return x.ndim == 2 and x.shape[1] > 2 and (x.shape[1] <= MAX_DIMENSIONS or bool((known == known.round()).all()))


def _observed(x: np.ndarray) -> np.ndarray:
    return x[np.isfinite(x)]


def _plane(title: str) -> Axes:
    ax = one_axes(title, 5.0, 5.2)
    ax.set(xlabel="x₁", ylabel="x₂", aspect="equal", adjustable="datalim")
    return ax


def _points(ax: Axes, x: np.ndarray, color: str, label: str, size: float = 9) -> None:
    first, second = x.reshape(-1, 2).T
    ax.scatter(first, second, s=size, color=color, alpha=0.7, lw=0, label=label)


def _intervals(ax: Axes, x: np.ndarray, color: str, label: str, shift: float) -> None:
    """Draw the quantiles of each dimension of x `[n, D]` as a thin and a thick line, and the mean."""
    x = np.where(np.isfinite(x), x, np.nan)
    at = np.arange(1, x.shape[1] + 1) + shift
    least, low, median, high, most = np.nanquantile(x, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax.vlines(at, least, most, color=color, lw=1)
    ax.vlines(at, low, high, color=color, lw=4, label=label)
    ax.plot(at, median, "_", color=color, ms=9)
    ax.plot(at, np.nanmean(x, axis=0), "D", color="white", mec=color, ms=4)


def _rows(title: str, x: np.ndarray, ends: Sequence[int], names: Sequence[str], label: str = "value") -> Axes:
    """Draw datapoints x `[n, D]` as rows of a heat map. `ends` are those of the groups of rows that have `names`."""
    kept = _evenly(x.shape[1])
    ax = one_axes(title, height=1.2 + min(4.0, 0.16 * len(x)))
    image = ax.imshow(x[:, kept], aspect="auto", cmap="cividis", interpolation="nearest",
                      extent=(0.5, x.shape[1] + 0.5, len(x), 0))  # fmt: skip
    for end in ends[1:-1]:
        ax.axhline(end, color="white", lw=2)
    centers = [(a + b) / 2 for a, b in pairwise(ends)]
    ax.set_yticks(centers, names)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="dimension")
    integers(ax.xaxis)
    ax.grid(visible=False)
    figure: Any = ax.figure
    figure.colorbar(image, ax=ax, label=label)
    return ax


def _lines(title: str, x: np.ndarray, columns: int, pairs: np.ndarray | None = None, num_given: int = 0) -> Axes:
    """Draw series x `[n, *data_shape]`, a panel each.

    Args:
        title: the title.
        x: series that the model made, but for the first `num_given`.
        columns: number of panels in a row.
        pairs: data `[n, *data_shape]` that are drawn behind them.
        num_given: number of series in x that are data.
    """
    x, channels = _channels(x)
    if channels > MAX_CHANNELS:
        title += f" ({MAX_CHANNELS} of {channels} channels)"
    at = _evenly(x.shape[2])
    rows = math.ceil(len(x) / columns)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    labelled = {}
    for i, ax in enumerate(panels[: len(x)]):
        for c, (dark, light) in enumerate(PAIRS[: x.shape[1]]):
            of = f", channel {c + 1}" if channels > 1 else ""
            if pairs is not None:
                (line,) = ax.plot(at, _channels(pairs)[0][i, c, at], color=light, lw=2.6)
                labelled[f"data{of}"] = line
            (line,) = ax.plot(at, x[i, c, at], color=light if i < num_given else dark, lw=1.2)
            labelled[f"data{of}" if i < num_given else f"model{of}"] = line
    for ax in panels[len(x) :]:
        ax.set_axis_off()
    for ax in grid[-1]:
        ax.set_xlabel("position")
    panels[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.suptitle(title)
    figure.supylabel("value", fontsize=10)
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=2 if channels > 1 else 3)
    return panels[0]


def _channels(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Return series as `[n, C, L]` with at most `MAX_CHANNELS` channels, and how many there are."""
    if x.ndim > 2:  # the longest axis is that of positions
        x = np.moveaxis(x, 1 + int(np.argmax(x.shape[1:])), -1)
    x = x.reshape(len(x), -1, x.shape[-1])
    return x[:, :MAX_CHANNELS], x.shape[1]


def _evenly(n: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, MAX_ON_A_LINE)).astype(int)
