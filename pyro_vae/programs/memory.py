"""Chooses how many pairs (sample, datapoint) to process at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.errors import positive_int
from pyro_vae.programs.chunks import LARGEST, require_room, slices
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.trace import Program, trace

CACHE = 2**24
"""Bytes of last-level cache that a process can expect. Blocks that exceed the cache are much slower."""


def chunk_option(value: int | str) -> int | str:
    """Check the option `estimator.chunk_size`.

    Raises:
        BadInput: if it is neither a positive integer nor `auto`.
    """
    return value if isinstance(value, str) and value == "auto" else positive_int("chunk_size", value)


def pairs_at_once(chunk_size: int | str, model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """Return how many pairs (sample, datapoint) to process at once, for data x `[N, ...]`.

    With `auto` on a CPU, their largest tensor (`bytes_per_pair`) fits into `CACHE`; on a GPU, 64 of them fit into a
    quarter of the free memory. The number is a power of two from 256 to 262,144, or smaller if a tensor of 256 pairs
    exceeds `LARGEST`.
    """
    if isinstance(chunk_size, int):
        return chunk_size
    each = bytes_per_pair(model, x, y)
    room = torch.cuda.mem_get_info(x.device)[0] // (4 * 64) if x.is_cuda else CACHE
    pairs = room // each
    fewest = min(2**8, power_of_two(LARGEST // each))
    return min(max(power_of_two(pairs), fewest), 2**18)


def rows_in_memory(chunk_size: int, num_samples: int, model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """Return how many datapoints with `num_samples` each to process at once: at most `chunk_size` pairs that fit.

    Raises:
        BadInput: if the samples of one datapoint do not fit into memory.
    """
    each = bytes_per_pair(model, x, y)
    require_room(num_samples * each // x.element_size(), x, f"num_samples={num_samples} takes")
    return max(1, min(chunk_size, LARGEST // each) // num_samples)


def bytes_per_pair(model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """Return the size of a pair's largest tensor: the value of a site or a parameter of its distribution."""
    x, y = next(slices(1, x, y))
    with torch.no_grad(), fork_rng(x):
        nodes: Any = trace(model, x, y, num_samples=1).nodes.values()
    sites = [site for site in nodes if site["type"] == "sample"]
    return x.element_size() * max(max(site["value"].numel(), _largest(site["fn"])) for site in sites)


def _largest(distribution: Any) -> int:
    """Return the number of values in the largest tensor of a distribution and its parts."""
    sizes = [
        part.numel() if isinstance(part, Tensor) else _largest(part)
        for part in vars(distribution).values()
        if isinstance(part, (Tensor, Distribution))
    ]
    return max(sizes, default=0)


def power_of_two(n: int) -> int:
    """Return the largest power of two that is at most n, at least 1."""
    return int(2 ** (max(1, n).bit_length() - 1))


def padded(index: Tensor) -> Tensor:
    """Repeat the last entry until the length is a power of two, so that few shapes of compiled graphs are needed."""
    missing = power_of_two(2 * len(index) - 1) - len(index)
    return torch.cat([index, index[-1:].expand(missing)])
