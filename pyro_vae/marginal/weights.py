"""Log importance weights of a Pyro model and guide, per datapoint, streamed in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import TransformedDistribution

from pyro_vae.chunks import slices

Program = Callable[..., Any]


def log_weights(model: Program, guide: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int) -> Tensor:
    """log w = log p(x, z) − log q(z | x) at `num_samples` draws z ~ q(z | x): `[num_samples, N]`, nats.

    `pyro.infer.importance.vectorized_importance_weights` sums them over the batch: log p(x) needs them apart.

    Args:
        model: Pyro program with its datapoints in a plate at dim −1.
        guide: proposal over the same latent sites.
        x: data, `[N, ...]`.
        y: labels, `[N]`, of a conditional model.
        num_samples: K.
    """
    guide_trace = trace(guide, x, y, num_samples=num_samples)
    model_trace = trace(poutine.replay(model, trace=guide_trace), x, y, num_samples=num_samples)
    return log_prob(model_trace, num_samples, x) - log_prob(guide_trace, num_samples, x)


def trace(program: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int | None) -> Trace:
    """A trace of `num_samples` runs of a program at once, sites `[num_samples, N, ...]`; None: of one, `[N, ...]`."""
    args = (x,) if y is None else (x, y)
    with nullcontext() if num_samples is None else pyro.plate("num_samples", num_samples, dim=-2):
        return prune_subsample_sites(poutine.trace(program).get_trace(*args))


def log_prob(trace: Trace, num_samples: int, x: Tensor) -> Tensor:
    """Log-density of all sites of a `trace`, `[num_samples, N]`."""
    trace.compute_log_prob()
    sites = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
    return x.new_zeros((num_samples, len(x))) + sum(sites)


def base_of(fn: Any) -> Any:
    """The distribution within `Independent`, `MaskedDistribution` and the like."""
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return fn


def chunks(N: int, num_samples: int, chunk_size: int) -> tuple[int, int]:
    """How many datapoints and samples to take at once: (n, k) with n·k ≤ max(chunk_size, 1).

    Both near the square root, as far as N and K allow: encoding x is shared by k samples, and neither
    dimension leaves the other too short for a fast matrix product.
    """
    k = min(num_samples, max(1, math.isqrt(chunk_size)))
    n = min(N, max(1, chunk_size // k))
    return n, min(num_samples, max(1, chunk_size // n))


def stream(
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int,
    chunk_size: int,
    progress: Callable[[int], Any] = lambda pairs: None,
    weigh: Callable[..., Tensor] = log_weights,
) -> Iterator[Iterator[Tensor]]:
    """Log-weights of all data: for each few of the datapoints an iterator of float64 `[k, n]` blocks.

    Never more than `chunk_size` pairs (sample, datapoint) are in memory, whatever N and K are.
    `progress` is told the number of pairs that each block adds; `weigh` stands for `log_weights`.
    """
    n, k = chunks(len(x), num_samples, chunk_size)

    def blocks(x: Tensor, y: Tensor | None) -> Iterator[Tensor]:
        for done in range(0, num_samples, k):
            # validation looks at every value: once, by the trainer, is enough
            with torch.no_grad(), pyro.validation_enabled(False):
                block = weigh(model, guide, x, y, num_samples=min(k, num_samples - done)).double()
            yield block
            progress(block.numel())

    for x_part, y_part in slices(n, x, y):
        yield blocks(x_part, y_part)
