"""Checks of data by likelihoods: each function raises BadInput, or returns a warning or None."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.errors import BadInput


def is_binary(x: Tensor) -> bool:
    """Whether every value is 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())


def in_unit_interval(name: str, x: Tensor) -> None:
    """Reject values outside [0, 1]."""
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        others = "gaussian" if low < 0 or (x != x.round()).any() else "poisson (for counts) or gaussian"
        raise BadInput(
            f"likelihood={name} needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
            f"rescale them or use likelihood={others}"
        )


def are_counts(name: str, x: Tensor) -> str | None:
    """Reject values that are not 0, 1, 2, …; warn if none is above 1."""
    num_bad = int(((x < 0) | (x != x.round())).sum())
    if num_bad:
        raise BadInput(
            f"likelihood={name} needs counts 0, 1, 2, …, but {num_bad} values of the data are not: use "
            "likelihood=gaussian, or give counts (of the pixels in data=digits: data.counts=true data.binarize=none)"
        )
    if not is_binary(x):
        return None
    return f"likelihood={name} on data that are 0 or 1: use data.binarize=none for counts, or likelihood=bernoulli"


def on_grid(name: str, x: Tensor, grid: Grid) -> str | None:
    """Reject values off the grid; warn if the data have two levels and the grid has more."""
    grid.require(x, f"likelihood={name}", "use data.dequantize=false or likelihood=gaussian")
    if grid.num_levels == 2 or not is_binary(x):
        return None
    return (
        f"likelihood={name} with {grid.num_levels} levels on data that are 0 or 1: use data.binarize=none for "
        "grey values, or likelihood=bernoulli"
    )


def density_of(name: str, x: Tensor) -> str | None:
    """Reject values whose squares over- or underflow; warn if x is binary, since a density says little about it."""
    if (largest := x.abs().max().item()) > 1e18:
        raise BadInput(f"likelihood={name} squares the data, which reach {largest:.3g}: divide them by {largest:.0e}")
    if 0 < largest < 1e-18:
        raise BadInput(f"likelihood={name} squares the data, which reach {largest:.3g}: multiply by {1 / largest:.0e}")
    if not is_binary(x):
        return None
    return (
        f"likelihood={name} on binary data: log p(x) is a density, not comparable with the log p(x) of "
        "discrete likelihoods; use likelihood=bernoulli"
    )
