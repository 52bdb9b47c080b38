"""Figures of estimates of log p(x), from arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.errors import datapoints
from pyro_vae.runs.plots.images import Limits, is_image, show, tile
from pyro_vae.runs.plots.style import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    STATUS,
    WIDTH,
    integers,
    legend_below,
    one_axes,
    plain_numbers,
    styled,
)


@styled
def histogram(
    log_px: np.ndarray,
    x: np.ndarray,
    limits: Limits = (0.0, 1.0),
    name: str = "log p(x)",
    estimator: str | None = None,
) -> tuple[Axes, ...]:
    """Draw a histogram of log p(x) `[N]`, or of what `name` says, above the 8 least and most likely images of x."""
    order = np.argsort(log_px)
    image = is_image(x)
    figure = Figure(figsize=(WIDTH, 5.0 if image else 3.4), layout="constrained")
    heights = [2.4, 1.0, 1.0] if image else [1.0]
    axes: tuple[Axes, ...] = tuple(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    ax = axes[0]
    ax.hist(log_px, bins=min(50, max(5, len(log_px) // 5)))
    ax.axvline(float(log_px.mean()), color=ORANGE, label=f"mean {log_px.mean():.2f}".replace("-", "−"))
    by = f" by {estimator}" if estimator else ""
    ax.set(title=f"{name} of {datapoints(len(log_px))}{by}", xlabel=f"{name}, nats", ylabel="datapoints")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    ax.title.set_horizontalalignment("left")
    ax.title.set_x(0.0)
    integers(ax.yaxis)
    if image:
        for strip, index, title in ((axes[1], order[:8], "least likely"), (axes[2], order[::-1][:8], "most likely")):
            show(strip, tile(x[index], 8, limits))
            strip.set_title(title, fontsize="medium")
    return axes


@styled
def curve(
    num_samples: Sequence[int],
    log_px: Sequence[float | None],
    se: Sequence[float | None],
    name: str = "log p(x)",
    estimator: str = "",
) -> Axes:
    """Draw the mean of log p(x), or of the quantity `name`, against K, with two standard errors of its noise."""
    by = f", estimator {estimator}," if estimator else ""
    ax = one_axes(f"{name}{by} from the first K of one set of samples")
    mean, error = np.array(log_px, dtype=float), np.array(se, dtype=float)  # None becomes NaN
    label = "mean ± 2 standard errors of the estimator's noise"
    ax.errorbar(num_samples, mean, yerr=2 * error, marker="o", capsize=3, label=label)
    ax.set(xscale="log", xlabel="number of samples K", ylabel="nats per datapoint")
    plain_numbers(ax.xaxis)
    legend_below(ax)
    return ax


@styled
def tails(tail: np.ndarray, pareto_k: np.ndarray, k_threshold: float | None = None, estimator: str = "") -> Axes:
    """Draw the largest normalized weights of the datapoints with the lowest, median and highest Pareto k.

    Args:
        tail: logs of the weights in descending order, `[M, N]`.
        pareto_k: of each datapoint, `[N]`.
        k_threshold: the legend names the k above it. If None, there is no Pareto k, and the datapoints are those with
            the lowest, median and highest largest weight.
        estimator: name of the estimator, for the title.
    """
    of = f", estimator {estimator}" if estimator else ""
    ax = one_axes(f"Largest importance weights{of}", height=4.2)
    order = np.argsort(tail[0] if k_threshold is None else np.nan_to_num(pareto_k, nan=np.inf))
    shown = (("lowest", order[0], BLUE, "o"), ("median", order[len(order) // 2], GREEN, "s"),
             ("highest", order[-1], RED, "^"))  # fmt: skip
    for name, i, color, marker in shown:
        label = f"{name} share of the largest weight"
        if k_threshold is not None:
            above = f", unreliable above {k_threshold:.2f}" if pareto_k[i] > k_threshold else ""
            label = f"{name} Pareto k: {pareto_k[i]:.2f}{above}"
        ax.plot(np.arange(1, len(tail) + 1), 100 * np.exp(tail[:, i]), label=label, marker=marker, ms=3, color=color)
    ax.set(xscale="log", yscale="log", xlabel="rank of the weight", ylabel="% of the total weight")
    low, high = ax.get_ylim()
    if high < 10 * low:  # else a short axis may have no power of ten
        ax.set_ylim(low / 3, high * 3)
    plain_numbers(ax.xaxis, ax.yaxis)
    legend_below(ax, 1)
    return ax


@styled
def bounds(
    lower: np.ndarray,
    upper: np.ndarray,
    certified: np.ndarray | None = None,
    simulated: bool = False,
    estimator: str = "",
) -> tuple[Axes, Axes]:
    """Draw both bounds on log p(x) of each datapoint, in ascending order, and the difference of the bounds.

    Args:
        lower: lower bounds, `[N]`.
        upper: upper bounds, `[N]`.
        certified: whether the Markov chains of each datapoint agree, `[N]`, if there are chains.
        simulated: whether the data are draws from the model.
        estimator: name of the estimator, for the title.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    order, rank = np.argsort(lower), np.arange(1, len(lower) + 1)
    low, high = lower[order], upper[order]
    above.fill_between(rank, low, high, alpha=0.3, step="mid", lw=0)
    above.plot(rank, high, drawstyle="steps-mid", color=ORANGE, label="upper bound")
    above.plot(rank, low, drawstyle="steps-mid", color=BLUE, linestyle="--", label="lower bound")
    of, by = " of simulated data" if simulated else "", f" by {estimator}" if estimator else ""
    above.set(title=f"Bounds on log p(x){of}{by}", ylabel="log p(x), nats")
    below.axhline(0, color="0.3", linewidth=0.8)
    good = np.ones_like(rank, dtype=bool) if certified is None else certified[order].astype(bool)
    for here, status, label in ((good, "reliable", "certified"), (~good, "unreliable", "not certified")):
        if here.any():
            color, marker = STATUS[status]
            named = "difference of the bounds" if certified is None else f"difference, {label}"
            below.plot(rank[here], (high - low)[here], marker, ms=4, color=color, label=named)
    below.set(xlabel="datapoints, by their lower bound", ylabel="upper − lower, nats")
    integers(below.xaxis)
    handles = [*above.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return above, below


@styled
def gaps(names: Sequence[str], approximation: Sequence[float], amortization: Sequence[float]) -> Axes:
    """Draw log p(x) − ELBO of each named set as a bar of its approximation gap and its amortization gap, in nats."""
    parts = {"approximation gap: the family's best q": approximation, "amortization gap: the encoder's q": amortization}
    return _stacked("Gaps: log p(x) − ELBO", names, parts)


@styled
def surgery(
    names: Sequence[str], mutual_information: Sequence[float], marginal_kl: Sequence[float], at_limit: bool = False
) -> Axes:
    """Draw KL(q(z | x) ‖ p(z)) of each named set as a bar of I(x; z) and of the marginal KL, in nats.

    Args:
        names: of the sets.
        mutual_information: I(x; z), nats.
        marginal_kl: KL(q(z) ‖ p(z)), nats.
        at_limit: whether I(x; z) is only a lower bound, and the marginal KL an upper bound.
    """
    least, most = (" or more", " or less") if at_limit else ("", "")
    parts = {f"I(x; z){least}": mutual_information, f"KL(q(z) ‖ p(z)){most}": marginal_kl}
    return _stacked("ELBO surgery: KL(q(z | x) ‖ p(z))", names, parts)


def _stacked(title: str, names: Sequence[str], parts: dict[str, Sequence[float]]) -> Axes:
    """Draw a horizontal bar for each name, with the values of its two parts beside it."""
    ax = one_axes(title, height=1.6 + 0.55 * len(names))
    left = np.zeros(len(names))
    for (label, values), color in zip(parts.items(), (BLUE, ORANGE), strict=True):
        ax.barh(names, values, left=left, color=color, label=label, height=0.6)
        left += np.array(values)
    for i, values in enumerate(zip(*parts.values(), strict=True)):
        ax.text(max(left[i], values[0]), i, "  " + " + ".join(f"{value:.3g}" for value in values), va="center")
    ax.axvline(0, color="0.3", lw=0.8)
    ax.invert_yaxis()
    ax.margins(x=0.25)  # room for the values
    ax.set(xlabel="nats per datapoint")
    ax.grid(visible=False, axis="y")
    legend_below(ax, 1 if len(max(parts, key=len)) > 30 else 2)
    return ax
