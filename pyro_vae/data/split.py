"""Training, validation and test sets, in memory or streamed from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_vae.errors import BadInput, datapoints, integer, positive_int
from pyro_vae.errors.memory import require_memory
from pyro_vae.parallel.collectives import share

CHUNK_BYTES = 2**25
"""Size of the chunks in which data on disk are read."""

CPU = torch.device("cpu")

Batch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Split:
    """Datapoints x `[N, *data_shape]`, float32, with y: labels `[N]`, int64, covariates `[N, M]`, float32, or None.

    Attributes:
        row: row numbers `[N]` in the file or array that the datapoints come from, on the CPU; None: 0, 1, …, N − 1.
    """

    x: Tensor
    y: Tensor | None = None
    row: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def data_shape(self) -> torch.Size:
        """Shape of one datapoint."""
        return self.x.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.x.device

    @property
    def rows(self) -> Tensor:
        """Row numbers `[N]` in the file or array that the datapoints come from."""
        return torch.arange(len(self)) if self.row is None else self.row

    def to(self, device: torch.device | str) -> Split:
        """Copy the split to another device."""
        return replace(self, x=self.x.to(device), y=None if self.y is None else self.y.to(device))

    def share(self) -> Split:
        """Return this process's share of the datapoints."""
        return Split(share(self.x), None if self.y is None else share(self.y), share(self.rows))

    def at(self, index: Tensor) -> Split:
        """Select the datapoints at `index` `[B]`."""
        return Split(self.x[index], None if self.y is None else self.y[index], self.rows[index.cpu()])

    def first(self, n: int | None) -> Split:
        """Select the first n datapoints, or all if n is None.

        Raises:
            BadInput: if there are fewer.
        """
        if n is None:
            return self
        _require(n, len(self))
        return Split(self.x[:n], None if self.y is None else self.y[:n], self.rows[:n])

    def sample(self) -> Split:
        """Return as much of the split as fits into memory: all of it."""
        return self

    def in_memory(self) -> Split:
        """Return the split itself."""
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> Split:
        """Replace x by `function(x)`."""
        return replace(self, x=function(self.x))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield x `[B, *data_shape]` and y `[B]` for each of `indices` `[B]`."""
        for index in torch.cat(list(indices)).to(self.device).split([len(index) for index in indices]):
            yield self.x.index_select(0, index), None if self.y is None else self.y[index]


@dataclass(frozen=True)
class Stored:
    """A split whose datapoints stay on disk, with the methods of `Split`.

    Args:
        rows: torch map-style data set. For a list of indices its `__getitems__` returns float32 or bytes
            `[B, *data_shape]`, or the `BadInput` that says what is wrong with them.
        index: rows that belong to the split, int64 `[N]`, in random order.
        y: labels int64 `[N]`.
        data_shape: shape of one datapoint.
        device: device of the batches.
        num_workers: number of prefetching workers.
        maps: functions applied to each batch.
    """

    rows: Any
    index: Tensor
    y: Tensor | None
    data_shape: torch.Size
    device: torch.device = CPU
    num_workers: int = 0
    maps: tuple[Callable[[Tensor], Tensor], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Stored:
        """Move future batches to another device."""
        return replace(self, device=torch.device(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> Stored:
        """Replace x by `function(x)` when it is read."""
        return replace(self, maps=(*self.maps, function))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield x `[B, *data_shape]` and y `[B]` for each of `indices` `[B]`, prefetching the next ones.

        Raises:
            BadInput: if a datapoint cannot be read.
        """
        loader: DataLoader[Any] = DataLoader(
            self.rows,
            batch_sampler=(self.index[index].tolist() for index in indices),
            collate_fn=_uncollated,
            num_workers=self.num_workers,
            worker_init_fn=_leave_interrupts_to_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # not the global one: the run's random numbers do not depend on num_workers
        )
        for index, x in zip(indices, loader, strict=True):
            if isinstance(x, BadInput):
                raise x
            x = unit_interval(x.to(self.device, non_blocking=True))
            for function in self.maps:
                x = function(x)
            yield x, None if self.y is None else self.y[index].to(self.device)

    def first(self, n: int | None) -> Split:
        """Read the first n datapoints into memory.

        Raises:
            BadInput: if there are fewer, or n is None.
        """
        if n is None:
            raise BadInput(f"{len(self)} datapoints are on disk or sparse: limit how many to load, as in num_data=1000")
        _require(n, len(self))
        chunks = list(self.batches(torch.arange(n).split(self.num_at_once)))
        y = None if self.y is None else self.y[:n].to(self.device)
        return Split(torch.cat([x for x, _ in chunks]), y, self.index[:n])

    def sample(self) -> Split:
        """Read one chunk of the split into memory."""
        return self.first(min(len(self), self.num_at_once))

    def in_order(self) -> Iterator[Tensor]:
        """Yield all x in chunks, in their order on disk and without `maps`."""
        return (x for x, _ in replace(self, maps=()).batches(self.index.argsort().split(self.num_at_once)))

    def in_memory(self) -> Split:
        """Read the whole split into memory."""
        if len(self):
            return self.first(len(self))
        return Split(torch.empty(0, *self.data_shape), self.y)

    @property
    def num_at_once(self) -> int:
        """Number of datapoints in a chunk."""
        return max(1, CHUNK_BYTES // (4 * math.prod(self.data_shape)))


def stored(
    rows: Any, data_shape: torch.Size, parts: Sequence[Tensor], y: Tensor | None, num_workers: int = 0
) -> tuple[Stored, Split, Split]:
    """Split `rows` with labels y `[N]` at the indices `parts`: training data stay on disk, the others are loaded.

    Raises:
        BadInput: if a file cannot be read, or the held-out data do not fit into memory.
    """
    held_out = 4 * math.prod(data_shape) * sum(map(len, parts[1:]))
    require_memory(held_out, "validation and test data take", "set max_held_out=N, smaller", copies=2)
    train, val, test = (
        Stored(rows, index, None if y is None else y[index], data_shape, num_workers=num_workers) for index in parts
    )
    return train, val.in_memory(), test.in_memory()


def unit_interval(x: Tensor) -> Tensor:
    """Convert to float32, dividing bytes by 255."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _require(n: int, most: int) -> None:
    if positive_int("num_data", n) > most:
        raise BadInput(f"num_data={n} must lie between 1 and {most}, the size of the split")


def _uncollated(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_the_parent(_: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def three_way_split(x: Tensor, y: Tensor | None, *args: Any, **kwargs: Any) -> tuple[Split, Split, Split]:
    """Split x `[N, *data_shape]` and y `[N]` at random into training, validation and test sets.

    Other arguments as for `split_indices`.
    """
    train, val, test = (Split(x, y).at(index) for index in split_indices(len(x), y, *args, **kwargs))
    return train, val, test


def split_indices(
    n: int, y: Tensor | None, val: float, test: float, seed: int, max_held_out: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the indices of random training, validation and test sets, stratified by y if it has class labels.

    Args:
        n: number of datapoints.
        y: labels `[n]`, or covariates `[n, M]`, which are ignored, or None.
        val: share of the validation set, in [0, 1); with 0 it is empty.
        test: share of the test set, in [0, 1); with 0 it is empty.
        seed: seed of the split, independent of the run's seed.
        max_held_out: maximum number of datapoints for validation, and for testing; None: no limit.

    Raises:
        BadInput: if a set would be empty that should not be.
    """
    for name, fraction in (("val", val), ("test", test)):
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
            raise BadInput(f"{name}_fraction={fraction} must be a number in [0, 1)")
    most = n if max_held_out is None else positive_int("max_held_out", max_held_out)
    sizes = {"val": min(most, round(val * n)), "test": min(most, round(test * n))}
    enough = sizes["val"] >= (val != 0) and sizes["test"] >= (test != 0) and sum(sizes.values()) < n
    if not enough:
        raise BadInput(
            f"{datapoints(n)} with val_fraction={val} and test_fraction={test} leave an empty "
            "training, validation or test set: give more data or other fractions"
        )
    require_memory(8 * n, f"the order of {n} datapoints takes", "give fewer")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(integer("split_seed", seed)))
    if y is not None and y.ndim == 1:
        # interleave the classes, each in random order: every slice then holds them in proportion
        by_class = order[y[order].argsort(stable=True)]
        members = y.unique(return_counts=True)[1]
        place = torch.arange(n) - (members.cumsum(0) - members).repeat_interleave(members)  # rank within the class
        rank = torch.empty(n, dtype=torch.double)
        rank[by_class] = (place.double() + 0.5) / members.repeat_interleave(members)
        order = order[rank[order].argsort(stable=True)]
    train, val_index, test_index = order.split([n - sum(sizes.values()), sizes["val"], sizes["test"]])
    return train, val_index, test_index
