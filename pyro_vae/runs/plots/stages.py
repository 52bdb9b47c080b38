"""Figures of estimates that are made in stages, from arrays. Each function returns the matplotlib axes it has drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.errors import datapoints
from pyro_vae.runs.plots.style import (
    BLUE,
    ORANGE,
    STATUS,
    WIDTH,
    integers,
    legend_below,
    one_axes,
    plain_numbers,
    styled,
)

LINEAR_BELOW = 1e-3
"""Nats; the axis of distances is linear below, to show zeros, and logarithmic above."""


@styled
def stages(names: Sequence[str], stage: Sequence[str], seconds: np.ndarray, status: Sequence[str]) -> Axes:
    """Draw a bar for each stage: the share of datapoints whose estimate it made, with their seconds of work.

    Args:
        names: of all stages, in order; those without datapoints are left out.
        stage: of each datapoint, `[N]`.
        seconds: of work on each datapoint, in all stages, `[N]`.
        status: of each datapoint, `[N]`: `exact`, `reliable` or `unreliable`.
    """
    by, state = np.array(stage), np.array(status)
    shown = [name for name in names if (by == name).any()]
    ax = one_axes(f"Which stage made the estimate: {datapoints(len(by))}", 7.0, 1.6 + 0.45 * len(shown))
    left = np.zeros(len(shown))
    for each, (color, _) in STATUS.items():
        share = np.array([100 * np.mean((by == name) & (state == each)) for name in shown])
        if share.any():
            ax.barh(shown, share, left=left, color=color, label=each, height=0.6)
        left += share
    for i, name in enumerate(shown):
        work = seconds[by == name]
        text = f"{left[i]:.1f} %: {work.sum():.3g} s, {work.mean():.2g} s per datapoint"
        ax.text(1.0, i, f" {text}", va="center", transform=ax.get_yaxis_transform())
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set(xlim=(0, 100), xlabel="% of datapoints")
    ax.grid(visible=False, axis="y")
    legend_below(ax)
    return ax


@styled
def lower_bounds(
    log_px: np.ndarray, lower: np.ndarray, elbo: np.ndarray, se: np.ndarray, status: Sequence[str]
) -> tuple[Axes, Axes]:
    """Draw estimates in ascending order with the ELBO; below, how far each lower bound lies below its estimate.

    Args:
        log_px: the estimates, `[N]`, nats.
        lower: lower confidence bounds, `[N]`, nats.
        elbo: of the guide, `[N]`, nats.
        se: standard errors of the estimates, `[N]`, nats.
        status: of each datapoint, `[N]`: `exact`, `reliable` or `unreliable`.
    """
    order, state = np.argsort(log_px), np.array(status)
    rank = np.arange(1, len(order) + 1)
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(rank, elbo[order], ".", ms=4, color="0.55", label="ELBO of the guide")
    above.plot(rank, lower[order], color=ORANGE, lw=4, alpha=0.7, label="lower bound, 95 % confidence")
    above.plot(rank, log_px[order], color=BLUE, lw=1, label="estimate of log p(x)")
    shown = np.concatenate([log_px, lower])
    low, high = np.min(shown, where=np.isfinite(shown), initial=np.inf), np.max(log_px)
    if high > low:  # a single ELBO may be far lower
        above.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    above.set(ylabel="nats", title=f"log p(x) of {datapoints(len(order))} and lower bounds")
    distance = log_px - lower
    for each, (color, marker) in STATUS.items():
        here = state[order] == each
        if here.any():
            label = f"to the bound, {each}"
            below.plot(rank[here], distance[order][here], marker, ms=3.5, color=color, label=label)
    below.plot(rank, se[order], color="0.3", lw=0.8, label="standard error")
    high = below.get_ylim()[1]
    below.set_yscale("symlog", linthresh=LINEAR_BELOW)
    below.set(ylabel="nats below the estimate", xlabel="datapoints, from least to most likely")
    below.set_ylim(-LINEAR_BELOW / 4, max(2 * high, 0.2))
    plain_numbers(below.yaxis)
    integers(below.xaxis)
    handles = [*above.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return above, below
