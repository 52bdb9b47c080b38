"""Draws the measurements as bars."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.benchmark.contenders import CONTENDERS, FLOOR
from pyro_vae.benchmark.report import digits
from pyro_vae.runs.plots.style import BLUE, RED, styled

TOO_LONG = 4
"""Bars longer than this many times the median bar are cut, since they would flatten all others."""


@styled
def draw(results: dict[str, Any], path: Path) -> None:
    """Draw a panel for each work in the content of `benchmark.json`, and write a PNG."""
    works = results["works"]
    columns = min(2, len(works))
    rows = math.ceil(len(works) / columns)
    tallest = max(len(work["contenders"]) for work in works.values())
    figure = Figure(figsize=(7.5 * columns, rows * (1.3 + 0.3 * tallest) + 0.4), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (name, work) in zip(axes, works.items(), strict=False):
        _panel(ax, name, work, tallest)
    for ax in axes[len(works) :]:
        ax.axis("off")
    machine, settings = results["machine"], results["settings"]
    figure.suptitle(
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['versions']['torch']}: "
        f"blue is this library; medians and quartiles, rounds: {settings['rounds']}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=120)


def _panel(ax: Axes, name: str, work: dict[str, Any], num_bars: int) -> None:
    done = {n: c for n, c in work["contenders"].items() if "failed" not in c}
    floor = done.pop(FLOOR, None)
    names = sorted(done, key=lambda n: done[n]["median"])
    medians = [done[n]["median"] for n in names]
    longest = TOO_LONG * statistics.median(medians or [1.0])
    end = 1.08 * max([m for m in medians if m <= longest] or [floor["median"] if floor else 1.0])
    labels = []
    for i, n in enumerate(names):
        median, (low, high) = done[n]["median"], done[n]["quartiles"]
        ax.barh(i, min(median, end), color=BLUE if n in CONTENDERS and CONTENDERS[n].ours else "0.72", height=0.7)
        if median > end:
            ax.text(0.99 * end, i, "»", va="center", ha="right")
        else:
            ax.errorbar(median, i, xerr=[[median - low], [high - median]], color="black", capsize=2.5, lw=1)
        labels.append(f"{digits(median)} ms, {digits(done[n]['ratio']['median'])} × {work['baseline']}")
    if floor:
        ax.axvline(floor["median"], color=RED, ls="--", lw=1.2, label=f"{FLOOR}, {digits(floor['median'])} ms")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)
    ax.set_yticks(range(len(names)), names)
    ax.grid(visible=False, axis="y")
    ax.set(xlim=(0, end), ylim=(num_bars - 0.4, -0.6), xlabel=work["unit"])
    ax.set_title(f"{name}: {work['title']}", fontsize="medium", loc="left", pad=20 if floor else 6)
    right = ax.twinx()
    right.set(ylim=ax.get_ylim())
    right.grid(visible=False)
    right.set_yticks(range(len(names)), labels, fontsize="small")
    for axes in (ax, right):
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
