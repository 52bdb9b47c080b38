"""Log importance weights of a Pyro model and guide, per datapoint, streamed in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.programs.chunks import chunks, slices
from pyro_vae.programs.trace import Program, log_prob, trace


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
