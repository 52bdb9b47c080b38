"""A data set in memory: three splits of tensors, explicitly binarized, dequantized or neither."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.data.grid import Grid
from pyro_vae.distributed import share
from pyro_vae.errors import BadInput, one_of, positive_int, whole

BINARIZATIONS = ("dynamic", "static", "threshold", "none")


@dataclass(frozen=True)
class Split:
    """Datapoints x `[N, *data_shape]`, float32, and their labels y `[N]`, int64, where there are any."""

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Split:
        """The same on another device."""
        return Split(self.x.to(device), None if self.y is None else self.y.to(device))

    def share(self) -> Split:
        """This process's part, where there are several."""
        return Split(share(self.x), None if self.y is None else share(self.y))

    def first(self, n: int | None) -> Split:
        """The first n datapoints; None: all.

        Raises:
            BadInput: if there are fewer.
        """
        if n is None:
            return self
        if positive_int("num_data", n) > len(self):
            raise BadInput(f"num_data={n} must lie between 1 and {len(self)}, the size of the split")
        return Split(self.x[:n], None if self.y is None else self.y[:n])


class Dataset:
    """Training, validation and test data of one shape, on one device.

    Args:
        train: training data.
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
        BadInput: if binarize is unknown, grey values to binarize lie outside [0, 1], or values to dequantize are not
            on the grid or binarized.
    """

    def __init__(
        self,
        train: Split,
        val: Split,
        test: Split,
        binarize: str = "none",
        eval_seed: int = 0,
        num_levels: int = 256,
        dequantize: bool = False,
    ) -> None:
        self.binarize = one_of("data.binarize", binarize, BINARIZATIONS)
        self.grid, self.num_levels = Grid(num_levels), num_levels
        if not isinstance(dequantize, bool):
            raise BadInput(f"data.dequantize={dequantize} must be true or false")
        self.dequantize = dequantize
        splits = {"train": train, "val": val, "test": test}
        if binarize != "none":
            for split in filter(len, splits.values()):
                low, high = split.x.min().item(), split.x.max().item()
                if low < 0 or high > 1:
                    raise BadInput(
                        f"data.binarize={binarize} needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
                        "rescale them or take data.binarize=none"
                    )
        if dequantize and binarize != "none":
            raise BadInput(f"data.dequantize=true with data.binarize={binarize}: take data.binarize=none")
        for split in splits.values() if dequantize else ():
            self.grid.require(split.x, "data.dequantize=true", "take data.dequantize=false")
        self.eval_seed = whole("data.eval_seed", eval_seed)
        self.redrawn = binarize == "dynamic" or dequantize
        for name, split in splits.items():
            if binarize == "threshold":
                splits[name] = Split((split.x > 0.5).float(), split.y)
            elif binarize == "static" or (self.redrawn and name != "train"):
                splits[name] = self._draw(name, split)
        self.splits = splits

    @property
    def train(self) -> Split:
        """Training data as stored: before what is drawn anew for each `batch`."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """Validation data."""
        return self.splits["val"]

    @property
    def test(self) -> Split:
        """Test data."""
        return self.splits["test"]

    @property
    def data_shape(self) -> torch.Size:
        """Shape of one datapoint."""
        return self.train.x.shape[1:]

    @property
    def num_classes(self) -> int | None:
        """The largest label of all splits + 1; None without labels."""
        return max((int(s.y.max()) + 1 for s in self.splits.values() if s.y is not None and len(s)), default=None)

    def split(self, name: str) -> Split:
        """`train`, `val` or `test` as a fixed set: training data that each batch draws anew are drawn once.

        Raises:
            BadInput: if there is no such split, or nothing in it.
        """
        one_of("split", name, tuple(self.splits))
        if not len(self.splits[name]):
            raise BadInput(f"split={name} is empty: give it a share of the data, as in data.{name}_fraction=0.1")
        if name == "train" and self.redrawn:
            return self._draw(name, self.train)
        return self.splits[name]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Training data at `index` `[B]`: x `[B, *data_shape]`, drawn anew where they are, and labels `[B]` or None."""
        if self.binarize == "dynamic":
            x = bernoulli(self._thresholds.index_select(0, index), self.train.x.dtype)
        else:
            x = self.train.x.index_select(0, index)
            x = self._noisy(x) if self.dequantize else x
        return x, None if self.train.y is None else self.train.y[index]

    @cached_property
    def _thresholds(self) -> Tensor:
        """Of the grey training data."""
        return thresholds(self.train.x)

    def _draw(self, name: str, split: Split) -> Split:
        """The split with noise that is the same in every run and on every device; other splits, other noise."""
        generator = torch.Generator().manual_seed(1000 * self.eval_seed + ("train", "val", "test").index(name))
        return Split(self._noisy(split.x.cpu(), generator).to(split.x.device), split.y)

    def _noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Dequantized x, or x ~ Bernoulli(grey value)."""
        if self.dequantize:
            return self.grid.dequantize(x, torch.rand(x.shape, generator=generator, device=x.device))
        return torch.bernoulli(x, generator=generator)

    def to(self, device: torch.device | str) -> Dataset:
        """Move all splits; returns self."""
        self.__dict__.pop("_thresholds", None)
        self.splits = {name: split.to(device) for name, split in self.splits.items()}
        return self


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


def three_way_split(x: Tensor, y: Tensor | None, val: float, test: float, seed: int) -> tuple[Split, Split, Split]:
    """Random training, validation and test sets, stratified by y where it is given.

    Args:
        x: `[N, *data_shape]`.
        y: `[N]` or None.
        val: share of the validation set, in [0, 1); 0 makes none.
        test: share of the test set, in [0, 1); 0 makes none.
        seed: of the split alone, so that it is the same in every run.

    Raises:
        BadInput: if a share leaves one of the sets empty.
    """
    for name, fraction in (("val", val), ("test", test)):
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
            raise BadInput(f"data.{name}_fraction={fraction} must be a number in [0, 1)")
    sizes = {"val": round(val * len(x)), "test": round(test * len(x))}
    enough = sizes["val"] >= (val != 0) and sizes["test"] >= (test != 0) and sum(sizes.values()) < len(x)
    if not enough:
        raise BadInput(
            f"{len(x)} datapoints with data.val_fraction={val} and data.test_fraction={test} leave an empty "
            "training, validation or test set: give more data or other fractions"
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(whole("data.split_seed", seed)))
    if y is not None:
        # within a class in random order, classes interleaved: any slice holds each class in proportion
        rank = torch.empty(len(y), dtype=torch.double)
        for label in y.unique():
            members = order[y[order] == label]
            rank[members] = (torch.arange(len(members), dtype=torch.double) + 0.5) / len(members)
        order = order[rank[order].argsort(stable=True)]
    parts = order.split([len(x) - sum(sizes.values()), sizes["val"], sizes["test"]])
    train, val_split, test_split = (Split(x[i], None if y is None else y[i]) for i in parts)
    return train, val_split, test_split
