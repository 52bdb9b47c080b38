"""Traces of Pyro programs and their log-densities."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import TransformedDistribution

Program = Callable[..., Any]


def trace(program: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int | None) -> Trace:
    """Trace a program.

    Args:
        program: a model or a guide.
        x: data, `[N, ...]`.
        y: labels of a conditional model, `[N]`.
        num_samples: number of runs at once, whose sites have shape `[num_samples, N, ...]`. None runs it once, with
            sites `[N, ...]`.
    """
    args = (x,) if y is None else (x, y)
    with nullcontext() if num_samples is None else pyro.plate("num_samples", num_samples, dim=-2):
        return prune_subsample_sites(poutine.trace(program).get_trace(*args))


def log_prob(trace: Trace, num_samples: int, x: Tensor) -> Tensor:
    """Return the log-density of all sites of a trace, `[num_samples, N]`."""
    trace.compute_log_prob()
    sites = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
    return x.new_zeros((num_samples, len(x))) + sum(sites)


def base_of(fn: Any) -> Any:
    """Return the distribution within wrappers such as `Independent` and `MaskedDistribution`."""
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return fn
