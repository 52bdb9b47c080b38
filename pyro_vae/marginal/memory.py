"""How much to work on at once."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from pyro_vae.errors import positive_int


def chunk_option(value: int | str) -> int | str:
    """The option `estimator.chunk_size`.

    Raises:
        BadInput: if it is neither a positive whole number nor `auto`.
    """
    return value if value == "auto" else positive_int("estimator.chunk_size", value)


def pairs_at_once(chunk_size: int | str, x: Tensor) -> int:
    """How many pairs (sample, datapoint) to work on at once, for data x `[N, ...]`.

    `auto` on a CPU: so many that two numbers for each of their dimensions fit into its last cache; on a GPU 64 such
    numbers into a quarter of its free memory. A power of two from 256 to 262,144.
    """
    if isinstance(chunk_size, int):
        return chunk_size
    numbers = 64 if x.is_cuda else 2
    pairs = _bytes(x.device) // (numbers * x[0].numel() * x.element_size())
    return int(min(max(2 ** (int(pairs).bit_length() - 1), 2**8), 2**18))


def _bytes(device: torch.device) -> int:
    """Of memory that is worth filling."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 4
    name = "SC_LEVEL3_CACHE_SIZE"
    cache = os.sysconf(name) if name in getattr(os, "sysconf_names", ()) else 0
    return max(cache, 2**24)  # some systems do not say
