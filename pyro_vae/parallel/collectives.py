"""Data-parallel training with torch.distributed, started by torchrun.

All processes run the same program. They start with the same parameters, process disjoint shares of each batch with
different noise, and average the gradient: a step equals that of one process with the whole batch. Only rank 0 writes.
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
_groups = count()  # each job of a sweep makes a process group
TIMEOUT = timedelta(minutes=30)
"""Time limit of a message: the other ranks wait while rank 0 compiles or draws figures."""


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that torchrun has started; without torchrun, do nothing.

    After a restart they use another prefix in the store, which still holds the addresses of the dead processes
    (https://github.com/pytorch/pytorch/issues/135712).
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
        dist.barrier()  # leaving early would raise errors in the other processes
    finally:
        dist.destroy_process_group()


def agreed_time(pattern: str) -> str:
    """Return the local time at which the first process called this: the same in all, also after a restart."""
    store = _store()
    return store.compare_set("pyro_vae/time", "", time.strftime(pattern)).decode()


@cache
def _store() -> Any:
    """Connect to the store of torchrun, which outlives the processes, or else of rank 0."""
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not hosted and environment.rank() == 0,
        timeout=timedelta(minutes=5),
        multi_tenant=True,
    )


def from_rank_0(value: T) -> T:
    """Return rank 0's value; tensors are overwritten in place."""
    if world_size() == 1:
        return value
    if isinstance(value, Tensor):
        dist.broadcast(value, 0)
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def total(values: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def anyone(condition: bool) -> bool:
    """Whether the condition holds on any rank."""
    return bool(total(torch.tensor(float(condition))).item())


def mean(tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Average tensors over the ranks, in one message; this rank has `weight`, and all weights add up to 1."""
    flat = total(torch.cat([tensor.reshape(-1) for tensor in tensors]) * weight)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def share(values: Tensor) -> Tensor:
    """Return this rank's share of rows `[N, ...]`: contiguous and disjoint; sizes differ by at most one row."""
    return values.tensor_split(world_size())[rank()]
