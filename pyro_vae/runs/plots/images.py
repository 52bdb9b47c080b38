"""Images in rows and columns, drawn as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_vae.runs.plots.style import WIDTH, one_axes

MAX_PIXELS = 2000
"""Largest side of a picture; a figure does not show more."""

Limits = tuple[float, float]
"""The values that are drawn black and white."""


def is_image(x: np.ndarray) -> bool:
    """Return whether datapoints of x `[n, *data_shape]` are images `[H, W]`, `[1, H, W]` or `[3, H, W]`.

    A few long rows or columns are a time series, which is drawn as lines.
    """
    shape = x.shape[1:]
    if len(shape) != 2 and (len(shape) != 3 or shape[0] not in (1, 3)):
        return False
    short, long = sorted(shape[-2:])
    return short > 1 and (short >= 8 or long <= 4 * short)


def tile(x: np.ndarray, columns: int, limits: Limits = (0.0, 1.0)) -> np.ndarray:
    """Tile images `[n, (C,) H, W]`, `columns` in a row, with thin lines between: `[H', W']` or `[H', W', 3]`.

    If a side of the picture would exceed `MAX_PIXELS`, only every n-th pixel is kept.
    """
    if x.ndim == 3:
        x = x[:, None]
    rows = math.ceil(len(x) / columns)
    step = math.ceil(max(rows * x.shape[2], columns * x.shape[3]) / MAX_PIXELS)
    x = x[:, :, ::step, ::step]
    C, H, W = x.shape[1:]
    low, high = limits
    canvas = np.full((rows, columns, C, H + 1, W + 1), 0.5, dtype=np.float32)
    for i, image in enumerate(x):
        canvas[i // columns, i % columns, :, :H, :W] = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    picture = canvas.transpose(0, 3, 1, 4, 2).reshape(rows * (H + 1), columns * (W + 1), C)[:-1, :-1]
    return picture[..., 0] if C == 1 else picture


def picture(
    x: np.ndarray,
    columns: int,
    limits: Limits,
    title: str,
    above: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> Axes:
    """Draw images x in rows of `columns`, their pixels enlarged evenly.

    Args:
        x: images, `[n, (C,) H, W]`.
        columns: number of images in a row.
        limits: the values that are drawn black and white.
        title: the title.
        above: labels of the columns.
        beside: labels of the rows.
    """
    tiled = tile(x, columns, limits)
    height, width = tiled.shape[:2]
    ax = one_axes(title, height=(WIDTH - 0.6 * bool(beside)) * min(2.0, height / width) + 0.5)
    show(ax, tiled)
    ax.set_xticks([(i + 0.5) * width / columns - 0.5 for i in range(len(above))], above, parse_math=False)
    ax.set_yticks([(i + 0.5) * height / len(beside) - 0.5 for i in range(len(beside))], beside)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    return ax


def show(ax: Axes, tiled: np.ndarray) -> None:
    """Draw a picture in `ax`, without its frame and ticks."""
    ax.imshow(tiled, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
