"""Figures of tables: one panel for each column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten, wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.data.schema import Column, written
from pyro_vae.runs.plots.style import DATA, MODEL, integers, legend_below, styled

MAX_PANELS = 24
MAX_TICKS = 12
LONG = 6
"""Characters above which the names of categories are written at an angle."""


@styled
def samples(columns: Sequence[Column], x: np.ndarray, drawn: np.ndarray) -> Axes:
    """Compare the distributions of the columns of data x and of samples `drawn`, both `[N, P]`."""
    panels = _panels(columns, "Test data, and samples of the model", "", "share of the rows")
    for ax, column, values, of_model in zip(panels, columns, x.T, drawn.T, strict=False):
        values = values[~np.isnan(values)]
        if column.categories:
            bins = np.arange(len(column.categories) + 1) - 0.5
        else:
            shown = [np.quantile(each, [0.005, 0.995]) for each in (values, of_model) if len(each)]
            low, high = np.min(shown), np.max(shown)  # few data would hardly count among many samples
            bins = np.linspace(low, high if high > low else low + 1, 25)
            if column.kind == "count":
                low, high = math.floor(low), math.ceil(high)
                bins = np.arange(low, high + 2, math.ceil((high - low + 1) / 40)) - 0.5
        edges = list(map(float, bins))
        for data, color, label in ((values, DATA, "test data"), (of_model, MODEL, "samples of the model")):
            weights = np.full(len(data), 1 / max(1, len(data)))
            filled = {"histtype": "stepfilled", "alpha": 0.5} if color == DATA else {"histtype": "step"}
            ax.hist(data, edges, weights=weights, color=color, label=label, **filled)
        _name_categories(column, ax.xaxis)
    legend_below(panels[0])
    return panels[0]


@styled
def reconstructions(columns: Sequence[Column], x: np.ndarray, mean: np.ndarray) -> Axes:
    """Draw the mean of p(x | z) at the embedding z of x against x, both `[N, P]`."""
    panels = _panels(columns, "Reconstructions against test data", "test data", "reconstruction: mean of p(x | z)")
    jitter = np.random.default_rng(0)
    for ax, column, values, of_model in zip(panels, columns, x.T, mean.T, strict=False):
        noise = jitter.uniform(-0.3, 0.3, (2, len(values))) * bool(column.categories)
        noise[1] *= of_model == np.round(of_model)  # not for probabilities, the means of binary columns
        ax.scatter(values + noise[0], of_model + noise[1], s=9, alpha=0.6, lw=0, color=MODEL)
        if not column.categories and np.isfinite(values).any():
            ends = [np.nanmin(values), np.nanmax(values)]
            ax.plot(ends, ends, color="0.3", lw=0.8, label="equal")
        _name_categories(column, ax.xaxis, ax.yaxis)
        if column.categories:
            limits = (-0.5, len(column.categories) - 0.5)
            ax.set(xlim=limits, ylim=limits)
    return panels[0]


def _panels(columns: Sequence[Column], title: str, below: str, beside: str) -> list[Axes]:
    n = min(len(columns), MAX_PANELS)
    width = min(n, 3)
    height = math.ceil(n / width)
    figure = Figure(figsize=(2.4 * width + 0.4, 2.0 * height + 0.9), layout="constrained")
    axes: list[Axes] = list(figure.subplots(height, width, squeeze=False).flat)
    for ax in axes[n:]:
        ax.set_axis_off()
    for ax, column in zip(axes, columns, strict=False):
        name = "\n".join(wrap(shorten(column.name, 50, placeholder=" …") or column.name[:50], 25))
        ax.set_title(name, fontsize=10, parse_math=False)
        ax.tick_params(labelsize=8.5)
        ax.ticklabel_format(scilimits=(-3, 5))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        if column.kind == "count":
            integers(ax.xaxis)
    figure.suptitle(title if n == len(columns) else f"{title} (the first {n} columns)")
    figure.supxlabel(below, fontsize=10)
    figure.supylabel(beside, fontsize=10)
    return axes[:n]


def _name_categories(column: Column, *axes: Any) -> None:
    """Label each axis (`ax.xaxis`) with the categories of a column, if it has any."""
    every = max(1, math.ceil(len(column.categories) / MAX_TICKS))
    shown = dict(list(enumerate(map(written, column.categories)))[::every])
    names = [name if len(name) <= 12 else f"{name[:11]}…" for name in shown.values()]
    for axis in axes if shown else ():
        axis.set_ticks(list(shown), names, parse_math=False)
        if axis.axis_name == "x" and max(map(len, names)) > LONG:
            axis.set_tick_params(rotation=25)
