"""A data set: three splits of tensors, explicitly binarized, dequantized or neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.data.split import Batch, Split, Stored
from pyro_vae.errors import BadInput, datapoints, one_of, positive_int, true_false, whole
from pyro_vae.errors.memory import require_memory

BINARIZATIONS = ("dynamic", "static", "threshold", "none")
SPLITS = ("train", "val", "test")


class Dataset:
    """Training, validation and test data of one shape, on one device.

    Args:
        train: training data, in memory or on disk.
        val: validation data.
        test: test data.
        binarize: `dynamic`: each training batch is drawn anew, x ~ Bernoulli(grey value); `static`: drawn
            once; `threshold`: x > 0.5; `none`. Validation and test data are never drawn more than once.
        eval_seed: seed of the draws of validation and test data, and of a static training set: these sets
            are the same in every run.
        num_levels: of grey, where the data are discrete: the values are k / (num_levels − 1).
        dequantize: add uniform noise, (k + u) / num_levels, which makes grey values continuous; each training
            batch is drawn anew, validation and test data once (`Grid.dequantize`).

    Raises:
        BadInput: if binarize is unknown, or draws what is on disk once; if grey values to binarize lie outside [0, 1],
            or values to dequantize are not on the grid or binarized.
    """

    def __init__(
        self,
        train: Split | Stored,
        val: Split,
        test: Split,
        binarize: str = "none",
        eval_seed: int = 0,
        num_levels: int = 256,
        dequantize: bool = False,
    ) -> None:
        self.binarize = one_of("data.binarize", binarize, BINARIZATIONS)
        self.grid, self.num_levels = Grid(num_levels), num_levels
        self.dequantize = true_false("data.dequantize", dequantize)
        if dequantize and binarize != "none":
            raise BadInput(f"data.dequantize=true with data.binarize={binarize}: take data.binarize=none")
        self.held_out = {"val": val, "test": test}
        for split in (train, val, test):
            if isinstance(split, Split) and len(split):
                self.require(split.x)
        self.eval_seed = whole("data.eval_seed", eval_seed)
        self.redrawn = binarize == "dynamic" or dequantize
        self.train = train
        """Training data as stored: before what is drawn anew for each `batch`."""
        if binarize == "threshold":
            self.train = train.map(_threshold)
        elif binarize == "static":
            if isinstance(train, Stored):
                raise BadInput(
                    "data.binarize=static draws all training data into memory: take dynamic, or give a .npz file"
                )
            self.train = self._draw("train", train)
        for name, split in self.held_out.items():
            if binarize == "threshold":
                self.held_out[name] = split.map(_threshold)
            elif binarize == "static" or self.redrawn:
                self.held_out[name] = self._draw(name, split)

    @property
    def val(self) -> Split:
        """Validation data."""
        return self.held_out["val"]

    @property
    def test(self) -> Split:
        """Test data."""
        return self.held_out["test"]

    @property
    def data_shape(self) -> torch.Size:
        """Shape of one datapoint."""
        return self.train.data_shape

    @property
    def sizes(self) -> dict[str, int]:
        """Of the splits."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.train.device

    @property
    def num_classes(self) -> int | None:
        """The largest label of all splits + 1; None without labels."""
        labels = [split.y for split in (self.train, self.val, self.test)]
        return max((int(y.max()) + 1 for y in labels if y is not None and len(y)), default=None)

    def split(self, name: str, num_data: int | None = None) -> Split:
        """The first `num_data` of `train`, `val` or `test`, or all, in memory and fixed.

        Training data that each batch draws anew are drawn once.

        Raises:
            BadInput: if there is no such split, nothing or less in it, or all are on disk.
        """
        split = {"train": self.train, **self.held_out}[one_of("split", name, SPLITS)]
        if not len(split):
            raise BadInput(f"split={name} is empty: give it a share of the data, as in data.{name}_fraction=0.1")
        first = split.first(num_data)
        return self._fixed(first) if name == "train" else first

    def sample(self) -> Split:
        """As much of the training data as can be held in memory, fixed."""
        return self._fixed(self.train.sample())

    def samples(self) -> list[Split]:
        """As much of each split as can be held in memory, fixed."""
        return [self.sample(), *filter(len, self.held_out.values())]

    def _fixed(self, train: Split) -> Split:
        """Training data, drawn once where each batch draws them anew."""
        return self._draw("train", train) if self.redrawn else train

    def require(self, x: Tensor) -> None:
        """Refuse x `[N, *data_shape]` that cannot be binarized or dequantized as they are to be.

        Raises:
            BadInput: if so.
        """
        if self.binarize != "none":
            low, high = x.min().item(), x.max().item()
            if low < 0 or high > 1:
                raise BadInput(
                    f"data.binarize={self.binarize} needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
                    "rescale them or take data.binarize=none"
                )
        if self.dequantize:
            self.grid.require(x, "data.dequantize=true", "take data.dequantize=false")

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Training data at `index` `[B]`: x `[B, *data_shape]`, drawn anew where they are, and labels `[B]` or None."""
        return next(self.batches([index]))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """The `batch` at each of `indices`, one after the other; of data on disk the next are read meanwhile."""
        for x, y in self._drawn_from.batches(indices):
            if self.binarize == "dynamic":
                x = bernoulli(x if x.dtype == torch.int16 else thresholds(x), torch.float32)
            elif self.dequantize:
                x = self._noisy(x)
            yield x, y

    @cached_property
    def _drawn_from(self) -> Split | Stored:
        """Training data, of grey values to be binarized in memory their thresholds."""
        in_memory = isinstance(self.train, Split)
        return self.train.map(thresholds) if self.binarize == "dynamic" and in_memory else self.train

    def _draw(self, name: str, split: Split) -> Split:
        """The split with noise that is the same in every run and on every device; other splits, other noise."""
        generator = torch.Generator().manual_seed(1000 * self.eval_seed + SPLITS.index(name))
        return Split(self._noisy(split.x.cpu(), generator).to(split.x.device), split.y)

    def _noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Dequantized x, or x ~ Bernoulli(grey value)."""
        if self.dequantize:
            return self.grid.dequantize(x, torch.rand(x.shape, generator=generator, device=x.device))
        return torch.bernoulli(x, generator=generator)

    def to(self, device: torch.device | str) -> Dataset:
        """Move all splits; returns self."""
        self.__dict__.pop("_drawn_from", None)
        self.train = self.train.to(device)
        self.held_out = {name: split.to(device) for name, split in self.held_out.items()}
        return self


def _threshold(x: Tensor) -> Tensor:
    return (x > 0.5).float()


def thresholds(p: Tensor) -> Tensor:
    """Probabilities rounded to 1/65536, as numbers of 16 bits: half the memory to read for `bernoulli`."""
    return (p * 65536).round().sub_(32768).clamp_(max=32767).to(torch.int16)


def bernoulli(thresholds: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`torch.bernoulli(p)` of the `thresholds` of p, in an eighth of its time: 16 random bits a draw, not 53."""
    size, shape = thresholds.numel(), thresholds.shape
    bits = torch.empty(-(-size // 4), dtype=torch.int64, device=thresholds.device).random_(-(2**63), None)
    uniform = bits.view(torch.int16)[:size].view(shape)  # on -32768, …, 32767
    uniform.clamp_(max=32766)  # so that all lie below the threshold of p = 1, which has no number of its own
    return torch.lt(uniform, thresholds, out=torch.empty(shape, dtype=dtype, device=thresholds.device))


def three_way_split(x: Tensor, y: Tensor | None, *args: Any, **kwargs: Any) -> tuple[Split, Split, Split]:
    """Random training, validation and test sets of x `[N, *data_shape]`, y `[N]`, as `three_ways` draws them."""
    train, val, test = (Split(x, y).at(index) for index in three_ways(len(x), y, *args, **kwargs))
    return train, val, test


def three_ways(
    n: int, y: Tensor | None, val: float, test: float, seed: int, max_held_out: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of random training, validation and test sets, stratified by y where it is given.

    Args:
        n: number of datapoints.
        y: `[n]` or None.
        val: share of the validation set, in [0, 1); 0 makes none.
        test: share of the test set, in [0, 1); 0 makes none.
        seed: of the split alone, so that it is the same in every run.
        max_held_out: at most so many datapoints for validation, and as many for testing; None: no bound.

    Raises:
        BadInput: if a share leaves one of the sets empty.
    """
    for name, fraction in (("val", val), ("test", test)):
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
            raise BadInput(f"data.{name}_fraction={fraction} must be a number in [0, 1)")
    most = n if max_held_out is None else positive_int("data.max_held_out", max_held_out)
    sizes = {"val": min(most, round(val * n)), "test": min(most, round(test * n))}
    enough = sizes["val"] >= (val != 0) and sizes["test"] >= (test != 0) and sum(sizes.values()) < n
    if not enough:
        raise BadInput(
            f"{datapoints(n)} with data.val_fraction={val} and data.test_fraction={test} leave an empty "
            "training, validation or test set: give more data or other fractions"
        )
    require_memory(8 * n, f"the order of {n} datapoints takes", "give fewer")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(whole("data.split_seed", seed)))
    if y is not None:
        # within a class in random order, classes interleaved: any slice holds each class in proportion
        by_class = order[y[order].argsort(stable=True)]
        members = y.unique(return_counts=True)[1]
        place = torch.arange(n) - (members.cumsum(0) - members).repeat_interleave(members)  # within its class
        rank = torch.empty(n, dtype=torch.double)
        rank[by_class] = (place.double() + 0.5) / members.repeat_interleave(members)
        order = order[rank[order].argsort(stable=True)]
    train, val_index, test_index = order.split([n - sum(sizes.values()), sizes["val"], sizes["test"]])
    return train, val_index, test_index
