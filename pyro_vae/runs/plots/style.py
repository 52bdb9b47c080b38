"""The style of all figures: sizes, and colours that readers with a colour vision deficiency tell apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
"""From Okabe and Ito (2008), "Color universal design"."""

DATA, MODEL = "0.55", BLUE
"""Colours of what is given, and of what a model makes of it."""

STATUS = {"exact": (GREEN, "D"), "reliable": (BLUE, "o"), "unreliable": (RED, "X")}
"""Colour and marker of each status of an estimate."""

CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Ten colours of Petroff (2021), "Accessible color sequences for data visualization"."""

WIDTH = 6.0
"""Inches. Figures are narrow, so that their letters can be read at half the size."""

MAX_NAME = 60
"""Characters of a name that titles show, the last ones: paths end with what differs."""

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.labelsize": 10.5,
    "figure.titlesize": 11.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.markerscale": 1.5,
    "lines.linewidth": 1.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY]),
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function draw in the library's style, whatever the user's settings of matplotlib are."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def one_axes(title: str, width: float = WIDTH, height: float = 3.8) -> Axes:
    """Return the only axes of a new figure; sizes are in inches."""
    ax: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    ax.set_title(title, wrap=True, parse_math=False)
    return ax


def integers(*axes: Any) -> None:
    """Let the ticks of each axis (`ax.xaxis`) be integers."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def plain_numbers(*axes: Any) -> None:
    """Label the powers of ten of each logarithmic axis as 1, 10, 100 or 0.01, and nothing between."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def legend_below(ax: Axes, columns: int = 3, **kwargs: Any) -> None:
    """Put the legend of `ax` below all axes of its figure, where it hides nothing."""
    figure: Any = ax.figure
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), **kwargs)


def short(name: str, most: int = MAX_NAME) -> str:
    """Shorten a long name to its end."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
