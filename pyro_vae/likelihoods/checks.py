"""What likelihoods ask of data: each function raises BadInput, or returns a warning or None."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.errors import BadInput


def is_binary(x: Tensor) -> bool:
    """Whether every value is 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())


def in_unit_interval(name: str, x: Tensor) -> None:
    """Refuse values outside [0, 1]."""
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise BadInput(
            f"likelihood={name} needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
            "rescale them or take likelihood=gaussian"
        )


def are_counts(name: str, x: Tensor) -> str | None:
    """Refuse values that are not 0, 1, 2, …; warn where none is above 1."""
    num_bad = int(((x < 0) | (x != x.round())).sum())
    if num_bad:
        raise BadInput(
            f"likelihood={name} needs counts 0, 1, 2, …, {num_bad} values of the data are none: "
            "take data=digits data.counts=true, an array of counts as floats, or likelihood=gaussian"
        )
    if not is_binary(x):
        return None
    return f"likelihood={name} on data that are 0 or 1: take data.binarize=none for counts, or likelihood=bernoulli"


def on_grid(name: str, x: Tensor, grid: Grid) -> str | None:
    """Refuse values off the grid; warn where the likelihood spreads over many levels what has two."""
    grid.require(x, f"likelihood={name}", "take data.dequantize=false or likelihood=gaussian")
    if grid.num_levels == 2 or not is_binary(x):
        return None
    return (
        f"likelihood={name} with {grid.num_levels} levels on data that are 0 or 1: take data.binarize=none for "
        "grey values, or likelihood=bernoulli"
    )


def density_of(name: str, x: Tensor) -> str | None:
    """Refuse values whose squares overflow; warn where `x` is binary, so that a density says little about it."""
    if (largest := x.abs().max().item()) > 1e18:
        raise BadInput(
            f"likelihood={name} squares the data, which are as large as {largest:.3g}: divide them by {largest:.0e}"
        )
    if not is_binary(x):
        return None
    return (
        f"likelihood={name} on binary data: log p(x) is a density, which no discrete likelihood's "
        "log p(x) compares with; take likelihood=bernoulli"
    )
