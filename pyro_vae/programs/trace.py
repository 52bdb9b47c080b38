"""Traces of Pyro programs and their log-densities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pyro
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
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


def log_prob(trace: Trace, num_samples: int, x: Tensor, *, scaled: bool = False) -> Tensor:
    """Return the log-density of all sites of a trace, `[num_samples, N]`, in nats.

    Args:
        trace: of a model or a guide.
        num_samples: number of runs in the trace.
        x: the data that the trace is of, `[N, ...]`.
        scaled: whether to multiply each log-density by its site's scale, as training objectives do. A plate that
            subsamples scales the datapoints in it to stand for all the others, so log p(x) needs unscaled densities.
    """
    trace.compute_log_prob()
    sites = [
        site["log_prob"] if scaled else unscaled_log_prob(site)
        for site in trace.nodes.values()
        if site["type"] == "sample"
    ]
    return x.new_zeros((num_samples, len(x))) + sum(sites)


def unscaled_log_prob(site: Any) -> Tensor:
    """Return the log-density at a site after `Trace.compute_log_prob`, without its scale but with its mask."""
    masked: Tensor = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    return masked


def share_of(plate: Any) -> float:
    """Return how many times larger a plate, an entry of a site's `cond_indep_stack`, is than the subsample in it."""
    return float((plate.full_size or plate.size) / plate.size)


def random_sites(trace: Trace) -> dict[str, Any]:
    """Return the latent and observed sites of a trace by name, without those of `pyro.deterministic`."""
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not is_deterministic(site)}


def is_deterministic(site: Any) -> bool:
    """Return whether a site is a `pyro.deterministic`, which Pyro marks as observed."""
    return bool((site["infer"] or {}).get("_deterministic"))


def mask_of(site: Any) -> Any:
    """Return the mask of a site's log-density, a tensor or a bool: True if nothing is masked."""
    mask: Any = True if site["mask"] is None else site["mask"]
    for fn in _unwrapped(site["fn"]):
        if isinstance(fn, MaskedDistribution):
            mask = mask & fn._mask
    return mask


def base_of(fn: Any) -> Any:
    """Return the distribution within wrappers such as `Independent` and `MaskedDistribution`."""
    *_, base = _unwrapped(fn)
    return base


def _unwrapped(fn: Any) -> Iterator[Any]:
    """Yield a distribution, what it wraps, what that wraps, and so on."""
    yield fn
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
        yield fn
