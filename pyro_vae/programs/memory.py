"""How much to work on at once."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.errors import positive_int
from pyro_vae.programs.chunks import LARGEST, require_room, slices
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.trace import Program, trace


def chunk_option(value: int | str) -> int | str:
    """The option `estimator.chunk_size`.

    Raises:
        BadInput: if it is neither a positive whole number nor `auto`.
    """
    return value if isinstance(value, str) and value == "auto" else positive_int("chunk_size", value)


def pairs_at_once(chunk_size: int | str, model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """How many pairs (sample, datapoint) to work on at once, for data x `[N, ...]`.

    `auto` on a CPU: so many that two tensors of theirs fit into its last cache (`bytes_per_pair`); on a GPU 64 into a
    quarter of its free memory. A power of two from 256 to 262,144, less only where 256 are more than `pairs_in_memory`.
    """
    if isinstance(chunk_size, int):
        return chunk_size
    each = bytes_per_pair(model, x, y)
    pairs = _bytes(x.device) // ((64 if x.is_cuda else 2) * each)
    fewest = min(2**8, _power_of_two(LARGEST // each))
    return min(max(_power_of_two(pairs), fewest), 2**18)


def pairs_in_memory(model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """For how many pairs (sample, datapoint) no tensor is larger than `LARGEST`; one at least."""
    return max(1, LARGEST // bytes_per_pair(model, x, y))


def rows_in_memory(chunk_size: int, num_samples: int, model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """How many datapoints to take at once with `num_samples` each: `chunk_size` pairs at most, if they fit.

    Raises:
        BadInput: if the samples of one datapoint do not fit into memory.
    """
    each = bytes_per_pair(model, x, y)
    require_room(num_samples * each // x.element_size(), x, f"num_samples={num_samples} takes")
    return max(1, min(chunk_size, LARGEST // each) // num_samples)


def bytes_per_pair(model: Program, x: Tensor, y: Tensor | None = None) -> int:
    """Size of the largest tensor that a pair takes: a value of a site, or a parameter of its distribution."""
    x, y = next(slices(1, x, y))
    with torch.no_grad(), fork_rng(x):
        nodes: Any = trace(model, x, y, num_samples=1).nodes.values()
    sites = [site for site in nodes if site["type"] == "sample"]
    return x.element_size() * max(max(site["value"].numel(), _largest(site["fn"])) for site in sites)


def _largest(distribution: Any) -> int:
    """Numbers in the largest tensor of a distribution and of those it is made of."""
    sizes = [
        part.numel() if isinstance(part, Tensor) else _largest(part)
        for part in vars(distribution).values()
        if isinstance(part, (Tensor, Distribution))
    ]
    return max(sizes, default=0)


def _power_of_two(n: int) -> int:
    """The largest that is no larger; 1 at least."""
    return int(2 ** (max(1, n).bit_length() - 1))


def _bytes(device: torch.device) -> int:
    """Of memory that is worth filling."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 4
    name = "SC_LEVEL3_CACHE_SIZE"
    cache = os.sysconf(name) if name in getattr(os, "sysconf_names", ()) else 0
    return max(cache, 2**24)  # some systems do not say
