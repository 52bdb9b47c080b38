"""The figure of anomaly scores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.errors import datapoints
from pyro_vae.runs.plots.style import DATA, RED, integers, legend_below, one_axes, styled

NUM_NAMED = 5
"""Number of rows whose numbers are shown."""


@styled
def among_held_out(held_out: np.ndarray, new: np.ndarray, split: str) -> Axes:
    """Draw a histogram of held-out log p(x) `[M]`, and mark those of new rows `[N]` above it.

    Rows that lie far away are marked at the edge, by triangles. The least likely rows are named by their numbers.
    """
    known, finite = held_out[np.isfinite(held_out)], np.nan_to_num(new, neginf=-np.finfo(new.dtype).max)
    order = np.argsort(finite)[:NUM_NAMED]
    rows = ", ".join(str(i) for i in order)
    ax = one_axes(f"log p(x) of new rows among held-out data\nleast likely: row{'s' if len(order) > 1 else ''} {rows}")
    bins, held_out_label = min(50, max(5, len(known) // 5)), f"held out ({split}): {datapoints(len(known))}"
    heights, _, _ = ax.hist(known, bins=bins, color=DATA, alpha=0.6, label=held_out_label)
    room = 1.5 * max(float(np.ptp(known)), 1e-6)
    low, high = known.min() - room, known.max() + room
    top = float(np.max(heights))
    for name, marker, inside in (
        (f"new: {datapoints(len(new))}", "|", (finite >= low) & (finite <= high)),
        ("left of the axis", "<", finite < low),
        ("right of the axis", ">", finite > high),
    ):
        if inside.any():
            x, size = finite[inside].clip(low, high), 12 if marker == "|" else 7
            ax.plot(x, np.full(len(x), 1.06 * top), marker, color=RED, markersize=size, label=name)
    ax.set(xlabel="log p(x), nats", ylabel="held-out datapoints", ylim=(0, 1.15 * top))
    integers(ax.yaxis)
    legend_below(ax, 2)
    return ax
