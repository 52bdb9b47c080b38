"""Several processes that train one VAE: torch.distributed, as torchrun starts it.

All processes run the same program. They start with the same parameters, take disjoint shares of each batch with noise
of their own, and average the gradient: a step is that of one process with the whole batch. Rank 0 alone writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.parallel import environment

T = TypeVar("T")
_groups = count()  # of this process: jobs of a sweep make one each
TIMEOUT = timedelta(minutes=30)
"""For a message: while rank 0 compiles, or draws figures, the others wait."""


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Within, the processes that torchrun has started are connected; without torchrun, nothing happens.

    After a restart they meet under another prefix: addresses that processes now dead have left in the store would be
    taken for those of the living (https://github.com/pytorch/pytorch/issues/135712).
    """
    if not environment.is_distributed():
        yield
        return
    store = dist.PrefixStore(  # type: ignore[attr-defined]
        f"attempt_{environment.attempt()}/{next(_groups)}", _store()
    )
    backend, size = "gloo", environment.world_size()
    if environment.local_world_size() <= torch.cuda.device_count():
        torch.cuda.set_device(environment.local_rank())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=environment.rank(), world_size=size, timeout=TIMEOUT)
    try:
        yield
        dist.barrier()  # who leaves first would be an error to the others
    finally:
        dist.destroy_process_group()


def agreed_time(pattern: str) -> str:
    """The local time, that of whoever asks first: all processes get the same, those that are restarted as well."""
    store = _store()
    return store.compare_set("pyro_vae/time", "", time.strftime(pattern)).decode()


@cache
def _store() -> Any:
    """Where the processes meet: torchrun's own, which outlives them, or else that of rank 0."""
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not hosted and environment.rank() == 0,
        timeout=timedelta(minutes=5),
        multi_tenant=True,
    )


def from_rank_0(value: T) -> T:
    """Rank 0's value, a tensor's in place of the others'."""
    if world_size() == 1:
        return value
    if isinstance(value, Tensor):
        dist.broadcast(value, 0)
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def gather(value: T) -> list[T]:
    """The values of all ranks, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def total(values: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def anyone(condition: bool) -> bool:
    """Whether it holds on some rank."""
    return bool(total(torch.tensor(float(condition))).item())


def mean(tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Means over the ranks, of which this one has `weight`; all weights add up to 1. One message takes them all."""
    flat = total(torch.cat([tensor.reshape(-1) for tensor in tensors]) * weight)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def share(values: Tensor) -> Tensor:
    """This rank's part of rows `[N, ...]`: contiguous, disjoint from the others', larger by at most one row."""
    return values.tensor_split(world_size())[rank()]
