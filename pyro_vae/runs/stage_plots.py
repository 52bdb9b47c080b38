"""Figures of estimates that are made in stages, from arrays. Each function returns the matplotlib axes it has drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.errors import datapoints

COLORS = {"exact": "C2", "reliable": "C0", "unreliable": "C3"}
"""Of each status."""

CLOSEST = 1e-3
"""Nats; closer bounds are drawn at this distance."""


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
    figure = Figure(figsize=(7, 1.6 + 0.5 * len(shown)), layout="constrained")
    ax = figure.subplots()
    left = np.zeros(len(shown))
    for each, color in COLORS.items():
        share = np.array([100 * np.mean((by == name) & (state == each)) for name in shown])
        if share.any():
            ax.barh(shown, share, left=left, color=color, label=each)
        left += share
    for i, name in enumerate(shown):
        work = seconds[by == name]
        text = f"{left[i]:.1f} %: {work.sum():.3g} s, {work.mean():.2g} s per datapoint"
        ax.text(1.0, i, f" {text}", va="center", transform=ax.get_yaxis_transform())
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="% of datapoints", title=f"Which stage made the estimate: {datapoints(len(by))}")
    figure.legend(loc="outside lower center", ncols=len(COLORS), fontsize="small")
    return ax


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
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(rank, elbo[order], ".", ms=3, color="0.6", label="ELBO of the guide")
    above.plot(rank, lower[order], color="C1", lw=4, alpha=0.6, label="lower bound, 95 % confidence")
    above.plot(rank, log_px[order], color="C0", lw=1, label="estimate of log p(x)")
    shown = np.concatenate([log_px, lower])
    low, high = np.min(shown, where=np.isfinite(shown), initial=np.inf), np.max(log_px)
    if high > low:  # a single ELBO may be far lower
        above.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    above.set(ylabel="nats", title=f"log p(x) of {datapoints(len(order))} and lower bounds")
    above.legend(loc="lower right", fontsize="small")
    distance = np.maximum(log_px - lower, CLOSEST)
    for each, color in COLORS.items():
        here = state[order] == each
        if here.any():
            below.plot(rank[here], distance[order][here], ".", ms=4, color=color, label=f"to the bound, {each}")
    below.plot(rank, np.maximum(se[order], CLOSEST), color="0.4", lw=0.8, label="standard error")
    below.set(yscale="log", ylabel="nats below the estimate", xlabel="datapoints, from least to most likely")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(handles=below.lines, loc="outside lower center", ncols=4, fontsize="small")
    for ax in (above, below):
        ax.grid(alpha=0.3)
    return above, below
