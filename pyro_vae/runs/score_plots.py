"""The figure of anomaly scores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.errors import datapoints

NUM_NAMED = 5
"""Number of rows whose numbers are shown."""


def among_held_out(held_out: np.ndarray, new: np.ndarray, split: str) -> Axes:
    """Draw a histogram of held-out log p(x) `[M]`, and mark those of new rows `[N]` above it.

    Rows that lie far away are marked at the edge, by triangles. The least likely rows are named by their numbers.
    """
    ax: Axes = Figure(figsize=(8, 3.8), layout="constrained").subplots()
    known, finite = held_out[np.isfinite(held_out)], np.nan_to_num(new, neginf=-np.finfo(new.dtype).max)
    heights, _, _ = ax.hist(
        known, bins=min(50, max(5, len(known) // 5)), color="C0", alpha=0.7, label=f"{split}, {datapoints(len(known))}"
    )
    room = 1.5 * max(float(np.ptp(known)), 1e-6)
    low, high = known.min() - room, known.max() + room
    top = float(np.max(heights))
    for name, marker, inside in (
        (f"new, {datapoints(len(new))}", "|", (finite >= low) & (finite <= high)),
        ("below the axis", "<", finite < low),
        ("above the axis", ">", finite > high),
    ):
        if inside.any():
            x, size = finite[inside].clip(low, high), 12 if marker == "|" else 7
            ax.plot(x, np.full(len(x), 1.06 * top), marker, color="C3", markersize=size, label=name)
    order = np.argsort(finite)[:NUM_NAMED]
    rows = ", ".join(str(i) for i in order)
    ax.set(
        title=f"log p(x) of new rows among held-out data; least likely: row{'s' if len(order) > 1 else ''} {rows}",
        xlabel="log p(x), nats",
        ylabel="held-out datapoints",
        ylim=(0, 1.4 * top),
    )
    ax.legend(loc="upper left", ncols=2, fontsize="small")
    return ax
