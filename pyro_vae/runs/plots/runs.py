"""Figures that compare runs: those of a sweep, and the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.runs.plots.style import BLUE, ORANGE, SKY, integers, legend_below, one_axes, styled

MAX_LINE = 32
"""Characters of a line of a label."""


@styled
def comparison(points: Mapping[str, Sequence[float]], means: Sequence[float], errors: Sequence[float]) -> Axes:
    """Draw log p(x) of runs, nats per datapoint: a row of points for each choice of options, with mean and error."""
    labels = ["\n".join(wrap(name, MAX_LINE)) for name in points]
    num_lines = sum(max(2, label.count("\n") + 1) for label in labels)
    ax = one_axes("log p(x) of the runs of a sweep", 7.0, 1.5 + 0.19 * num_lines)
    for i, values in enumerate(points.values()):
        ax.scatter(values, [i + 0.2] * len(values), s=30, color=SKY, lw=0, label="a run" if i == 0 else None)
    ax.errorbar(means, range(len(means)), xerr=errors, fmt="D", ms=5, color=BLUE, capsize=4,
                label="mean ± standard error")  # fmt: skip
    ax.set_yticks(range(len(points)), labels, parse_math=False)
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.set_xlabel("nats per datapoint")
    ax.grid(visible=False, axis="y")
    legend_below(ax)
    return ax


@styled
def search(numbers: Sequence[int], values: Sequence[float]) -> Axes:
    """Draw the validation ELBO of a search's trials, nats per datapoint, and the best so far."""
    ax = one_axes("Trials of the search")
    ax.step(numbers, np.maximum.accumulate(values), where="post", color=ORANGE, label="best so far")
    ax.scatter(numbers, values, s=24, color=BLUE, label="a trial", zorder=3)
    low, high = np.quantile(values, 0.25), max(values)  # the worst would flatten the others
    ax.set_ylim(bottom=min(low, high) - 0.5 * (high - low) - 1e-3)
    ax.set(xlabel="trial", ylabel="validation ELBO, nats per datapoint")
    integers(ax.xaxis)
    legend_below(ax)
    return ax
