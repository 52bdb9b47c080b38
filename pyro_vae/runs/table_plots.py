"""Figures of tables: one panel for each column."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.data.schema import Column, written

MAX_PANELS = 24
MAX_TICKS = 12


def samples(columns: Sequence[Column], x: np.ndarray, drawn: np.ndarray) -> Axes:
    """Compare the distributions of the columns of data x and of samples `drawn`, both `[N, P]`."""
    panels = _panels(columns, "Data, and samples of the model")
    for ax, column, values, of_model in zip(panels, columns, x.T, drawn.T, strict=False):
        values = values[~np.isnan(values)]
        if column.categories:
            bins = np.arange(len(column.categories) + 1) - 0.5
        else:
            low, high = np.quantile(np.concatenate([values, of_model]), [0.005, 0.995])
            bins = np.linspace(low, high if high > low else low + 1, 25)
            if column.kind == "count":
                low, high = math.floor(low), math.ceil(high)
                bins = np.arange(low, high + 2, math.ceil((high - low + 1) / 40)) - 0.5
        edges = list(map(float, bins))
        for data, color, label in ((values, "tab:gray", "data"), (of_model, "tab:blue", "model")):
            weights = np.full(len(data), 1 / max(1, len(data)))
            filled = {"histtype": "stepfilled", "alpha": 0.4} if label == "data" else {"histtype": "step"}
            ax.hist(data, edges, weights=weights, color=color, label=label, **filled)
        if column.categories:
            ax.set_xticks(*_ticks(column))
    panels[0].legend()
    return panels[0]


def reconstructions(columns: Sequence[Column], x: np.ndarray, mean: np.ndarray) -> Axes:
    """Draw the mean of p(x | z) at the embedding z of x against x, both `[N, P]`."""
    panels = _panels(columns, "Reconstructions against data")
    jitter = np.random.default_rng(0)
    for ax, column, values, of_model in zip(panels, columns, x.T, mean.T, strict=False):
        noise = jitter.uniform(-0.3, 0.3, (2, len(values))) * bool(column.categories)
        ax.scatter(values + noise[0], of_model + noise[1], s=4, alpha=0.5)
        if column.categories:
            ax.set_xticks(*_ticks(column))
            ax.set_yticks(*_ticks(column))
    return panels[0]


def _panels(columns: Sequence[Column], title: str) -> list[Axes]:
    n = min(len(columns), MAX_PANELS)
    width = min(n, 4)
    height = math.ceil(n / width)
    figure = Figure(figsize=(2.6 * width + 0.4, 2.1 * height + 0.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(height, width, squeeze=False).flat)
    for ax in axes[n:]:
        ax.set_axis_off()
    for ax, column in zip(axes, columns, strict=False):
        ax.set_title(column.name.replace("$", "\\$")[:30], fontsize=9)
        ax.tick_params(labelsize=7)
    figure.suptitle(title if n == len(columns) else f"{title} (the first {n} columns)", fontsize=10)
    return axes[:n]


def _ticks(column: Column) -> tuple[list[int], list[str]]:
    shown = list(enumerate(column.categories))[:: max(1, math.ceil(len(column.categories) / MAX_TICKS))]
    return [i for i, _ in shown], [written(category)[:10].replace("$", "\\$") for _, category in shown]
