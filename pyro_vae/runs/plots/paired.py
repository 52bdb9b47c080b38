"""Figure of paired differences of log p(x), from arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.analysis.difference import Difference
from pyro_vae.analysis.difference import differences as paired_differences
from pyro_vae.errors import datapoints
from pyro_vae.runs.paired import Scores, with_error
from pyro_vae.runs.plots.style import ORANGE, STATUS, integers, short, styled

MAX_MODELS = 8
"""Models that the figure shows beside the reference, the first ones."""


@styled
def differences(scores: Mapping[str, Scores], reference: str, value: str = "log p(x)") -> list[Axes]:
    """Draw how much higher log p(x) of each model is than that of the reference, nats.

    A model has a row of two axes: its differences in ascending order, with their mean ± 2 standard errors, and its
    log p(x) against that of the reference. Datapoints that are flagged in either model are crosses.

    Args:
        scores: log p(x) of the models, by name.
        reference: name of the one that the others are compared with.
        value: what is compared, for labels: log p(x), or the ELBO.
    """
    others = [name for name in scores if name != reference][:MAX_MODELS]
    figure = Figure(figsize=(9, 1.0 + 3.2 * len(others)), layout="constrained")
    rows = figure.subplots(len(others), 2, squeeze=False, width_ratios=[3, 2])
    base = scores[reference]
    for (left, right), name in zip(rows, others, strict=True):
        flagged = scores[name].unreliable | base.unreliable
        about = scores[name].minus(base)
        _sorted(left, paired_differences(scores[name], base), flagged, about)
        integers(left.xaxis)
        mean = "" if about.difference is None else f"\nmean {with_error(about.difference, about.se)} nats"
        left.set_title(f"{short(name, 40)} minus reference{mean}", fontsize="medium", parse_math=False)
        _scatter(right, base.log_px, scores[name].log_px, flagged)
        right.set_ylabel(f"{value} of the model, nats")
    rows[-1][0].set_xlabel("datapoints, in order of their difference")
    rows[-1][1].set_xlabel(f"{value} of the reference, nats")
    handles = {label: handle for row in rows for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    title = f"Paired differences of {value}, {datapoints(len(base.log_px))}\nreference: {short(reference)}"
    figure.suptitle(title, parse_math=False)
    return [ax for row in rows for ax in row]


def _sorted(ax: Axes, d: np.ndarray, flagged: np.ndarray, about: Difference) -> None:
    order = np.argsort(d)
    rank = np.arange(1, len(d) + 1)
    for here, status, label in (
        (~flagged[order], "reliable", "a datapoint"), (flagged[order], "unreliable", "flagged in either"),
    ):  # fmt: skip
        if here.any():
            color, marker = STATUS[status]
            ax.plot(rank[here], d[order][here], marker, ms=3, color=color, label=label)
    ax.axhline(0, color="0.3", lw=0.8)
    if about.difference is not None:
        ax.axhline(about.difference, color=ORANGE, lw=1.2, label="mean ± 2 standard errors")
        error = 2 * (about.se or 0)
        ax.axhspan(about.difference - error, about.difference + error, color=ORANGE, alpha=0.25, lw=0)
    ax.set_ylabel("difference, nats")


def _scatter(ax: Axes, x: np.ndarray, y: np.ndarray, flagged: np.ndarray) -> None:
    for here, status in ((~flagged, "reliable"), (flagged, "unreliable")):
        color, marker = STATUS[status]
        ax.plot(x[here], y[here], marker, ms=3, color=color)
    shown = np.concatenate([x, y])
    shown = shown[np.isfinite(shown)]
    if len(shown):
        ends = [shown.min(), shown.max()]
        ax.plot(ends, ends, color="0.3", lw=0.8)
