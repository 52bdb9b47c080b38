"""Figure of paired differences of log p(x), from arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.errors import datapoints
from pyro_vae.runs.paired import Difference, Scores, with_error
from pyro_vae.runs.paired import differences as paired_differences

MAX_MODELS = 8
"""Models that the figure shows beside the reference, the first ones."""

MAX_NAME = 60
"""Characters of a name that labels show, the last ones: paths end with what differs."""


def differences(scores: Mapping[str, Scores], reference: str, value: str = "log p(x)") -> list[Axes]:
    """Draw how much higher log p(x) of each model is than that of the reference, nats.

    A model has a row of two axes: its differences in ascending order, with their mean ± 2 standard errors, and its
    log p(x) against that of the reference. Datapoints that are flagged in either model are red.

    Args:
        scores: log p(x) of the models, by name.
        reference: name of the one that the others are compared with.
        value: what is compared, for labels: log p(x), or the ELBO.
    """
    others = [name for name in scores if name != reference][:MAX_MODELS]
    figure = Figure(figsize=(10, 0.6 + 3.4 * len(others)), layout="constrained")
    rows = figure.subplots(len(others), 2, squeeze=False, width_ratios=[3, 2])
    base = scores[reference]
    for (left, right), name in zip(rows, others, strict=True):
        flagged = scores[name].unreliable | base.unreliable
        _sorted(left, paired_differences(scores[name], base), flagged, Difference.of(scores[name], base))
        left.set_title(f"{_short(name)} minus reference", fontsize="medium", parse_math=False)
        _scatter(right, base.log_px, scores[name].log_px, flagged)
        right.set_ylabel(f"{value} of the model, nats")
    rows[-1][0].set_xlabel("datapoints, in order of their difference")
    rows[-1][1].set_xlabel(f"{value} of the reference, nats")
    title = f"Paired differences of {value}, {datapoints(len(base.log_px))}; reference: {_short(reference)}"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return [ax for row in rows for ax in row]


def _sorted(ax: Axes, d: np.ndarray, flagged: np.ndarray, about: Difference) -> None:
    order = np.argsort(d)
    rank = np.arange(1, len(d) + 1)
    for here, color, label in ((~flagged[order], "C0", "a datapoint"), (flagged[order], "C3", "flagged in either")):
        if here.any():
            ax.plot(rank[here], d[order][here], ".", ms=4, color=color, label=label)
    ax.axhline(0, color="0.3", lw=0.8)
    if about.difference is not None:
        mean = f"mean {with_error(about.difference, about.se)} (band: ± 2 s.e.)"
        ax.axhline(about.difference, color="C1", lw=1.2, label=mean)
        error = 2 * (about.se or 0)
        ax.axhspan(about.difference - error, about.difference + error, color="C1", alpha=0.25, lw=0)
    ax.set_ylabel("difference, nats")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left", fontsize="small")


def _scatter(ax: Axes, x: np.ndarray, y: np.ndarray, flagged: np.ndarray) -> None:
    for here, color in ((~flagged, "C0"), (flagged, "C3")):
        ax.plot(x[here], y[here], ".", ms=4, color=color)
    shown = np.concatenate([x, y])
    shown = shown[np.isfinite(shown)]
    if len(shown):
        ends = [shown.min(), shown.max()]
        ax.plot(ends, ends, color="0.3", lw=0.8)
    ax.grid(alpha=0.3)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"
