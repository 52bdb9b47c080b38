"""Log importance weights of a Pyro model and guide per datapoint, streamed in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.programs.chunks import chunks, slices
from pyro_vae.programs.time_limit import check_time
from pyro_vae.programs.trace import Program, log_prob, random_sites, trace


def log_weights(model: Program, guide: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int) -> Tensor:
    """Compute log w = log p(x, z) − log q(z | x) at `num_samples` draws z ~ q(z | x): `[num_samples, N]`, nats.

    Unlike `pyro.infer.importance.vectorized_importance_weights`, this does not sum over the batch.

    Args:
        model: Pyro program with its datapoints in a plate at dim −1.
        guide: proposal for the same latent sites.
        x: data, `[N, ...]`.
        y: labels of a conditional model, `[N]`.
        num_samples: K.
    """
    return draw_and_weigh(model, guide, x, y, num_samples=num_samples)[0]


def draw_and_weigh(
    model: Program, guide: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `log_weights` and the draws z at each latent site, `[num_samples, N, ...]`."""
    guide_trace = trace(guide, x, y, num_samples=num_samples)
    model_trace = trace(poutine.replay(model, trace=guide_trace), x, y, num_samples=num_samples)
    log_w = log_prob(model_trace, num_samples, x) - log_prob(guide_trace, num_samples, x)
    z = {}
    for name, site in random_sites(guide_trace).items():
        value: Tensor = site["value"]
        z[name] = value.expand(num_samples, len(x), *value.shape[value.dim() - site["fn"].event_dim :])
    return log_w, z


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
    """Stream log-weights of all data: for each chunk of n datapoints, an iterator of float64 blocks `[k, n]`.

    At most `chunk_size` pairs (sample, datapoint) are in memory at once. `progress` is called with the number of pairs
    in each block; `weigh` computes a block like `log_weights`. Each block may raise `OutOfTime`, see `time_limit`.
    """
    n, k = chunks(len(x), num_samples, chunk_size)

    def blocks(x: Tensor, y: Tensor | None) -> Iterator[Tensor]:
        for done in range(0, num_samples, k):
            check_time()
            # validation is slow, and the trainer has done it
            with torch.no_grad(), pyro.validation_enabled(False):
                block = weigh(model, guide, x, y, num_samples=min(k, num_samples - done)).double()
            yield block
            progress(block.numel())

    for x_part, y_part in slices(n, x, y):
        yield blocks(x_part, y_part)


def joined(blocks: Iterable[Tensor], num_rows: int = 1024) -> Iterator[Tensor]:
    """Concatenate successive blocks `[k, n]` to at least `num_rows` rows: work on many small blocks takes longer."""
    waiting: list[Tensor] = []
    for block in blocks:
        if not waiting and len(block) >= num_rows:  # without a copy
            yield block
            continue
        waiting.append(block)
        if sum(map(len, waiting)) >= num_rows:
            yield torch.cat(waiting)
            waiting.clear()
    if waiting:
        yield torch.cat(waiting)


def gathered(chunks: Iterable[Iterable[Tensor]]) -> Tensor:
    """Concatenate the blocks of `stream` to log-weights `[K, N]`."""
    return torch.cat([torch.cat(list(blocks)) for blocks in chunks], 1)
