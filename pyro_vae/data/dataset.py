"""A data set of three splits, with binarization or dequantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.binarize import BINARIZATIONS, at_half, bernoulli, thresholds
from pyro_vae.data.grid import Grid
from pyro_vae.data.labels import keep_labels
from pyro_vae.data.split import Batch, Split, Stored
from pyro_vae.errors import BadInput, integer, one_of, true_false, true_false_auto

SPLITS = ("train", "val", "test")


class Dataset:
    """Training, validation and test data of one shape, on one device.

    Args:
        train: training data, in memory or on disk.
        val: validation data.
        test: test data.
        binarize: `dynamic`: draw x ~ Bernoulli(grey value) again for each training batch; `static`: draw once;
            `threshold`: x > 0.5; `none`. Validation and test data are drawn once.
        eval_seed: seed of the draws of validation and test data, and of a static training set; these sets are
            the same in every run.
        num_levels: number of grey levels of discrete data, whose values are k / (num_levels − 1).
        dequantize: make grey values continuous by uniform noise, (k + u) / num_levels, drawn again for each training
            batch, and once for validation and test data (`Grid.dequantize`).
        missing: whether entries may be missing, which are NaN.
        columns: of a table, as plain data (`schema.Column.as_plain`), which a run's configuration keeps.
        covariates: columns of y `[N, M]`, as plain data, if y are covariates and not class labels `[N]`.
        classes: names of the classes, if they have any.
        num_labels: number of training datapoints that keep their labels, equally many of each class, chosen with
            `eval_seed`; the other labels of training and validation data become −1. None: all keep them.
        standardize: whether the likelihood `gaussian` or `student_t` measures each dimension in its own standard
            deviation; x and log p(x) stay in the units of the data. `auto`: for columns `[N, P]` of which half vary by
            less than a tenth of the standard deviation of all, unless the likelihood has options in other units.
        features: names of the columns of x, if they have names and x is not a table.
        apart: whether neither validation nor test data come from the file or array of the training data.

    Raises:
        BadInput: if an option is unknown, `static` is combined with data on disk, grey values to binarize lie outside
            [0, 1], or values to dequantize are binarized or not on the grid.

    Example:
        >>> from pyro_vae.data.split import three_way_split
        >>> data = Dataset(*three_way_split(torch.rand(100, 6), None, val=0.1, test=0.1, seed=0), binarize="dynamic")
        >>> data.sizes, data.batch(torch.arange(5))[0].unique().tolist()
        ({'train': 80, 'val': 10, 'test': 10}, [0.0, 1.0])
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
        missing: bool = False,
        columns: list[dict[str, Any]] | None = None,
        classes: Sequence[str] = (),
        num_labels: int | None = None,
        standardize: bool | str = "auto",
        covariates: list[dict[str, Any]] | None = None,
        features: Sequence[str] = (),
        apart: bool = False,
    ) -> None:
        self.apart = apart
        self.missing, self.columns, self.classes, self.features = missing, columns, tuple(classes), tuple(features)
        self.standardize = true_false_auto("standardize", standardize)
        self.covariates = covariates
        self.binarize = one_of("binarize", binarize, BINARIZATIONS)
        self.grid, self.num_levels = Grid(num_levels), num_levels
        self.dequantize = true_false("dequantize", dequantize)
        if dequantize and binarize != "none":
            raise BadInput(f"dequantize=true does not go with binarize={binarize}: use binarize=none")
        self.held_out = {"val": val, "test": test}
        for split in (train, val, test):
            if isinstance(split, Split) and len(split):
                self.require(split.x)
        self.eval_seed = integer("eval_seed", eval_seed)
        if num_labels is not None and covariates:
            raise BadInput(f"num_labels={num_labels} needs class labels y [N], not covariates: leave it out")
        if num_labels is not None:
            train = replace(train, y=keep_labels(train.y, num_labels, self.eval_seed))
            self.held_out["val"] = replace(val, y=None if val.y is None else torch.full_like(val.y, -1))
        self.redrawn = binarize == "dynamic" or dequantize
        self.train = train
        """Training data as stored, before the random draws of each `batch`."""
        if binarize == "threshold":
            self.train = train.map(at_half)
        elif binarize == "static":
            if isinstance(train, Stored):
                raise BadInput(
                    "binarize=static draws all training data into memory: use binarize=dynamic, or give a .npz file "
                    "of a dense array"
                )
            self.train = self._draw("train", train)
        for name, split in self.held_out.items():
            if binarize == "threshold":
                self.held_out[name] = split.map(at_half)
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
        """Number of datapoints in each split."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.train.device

    @property
    def num_classes(self) -> int | None:
        """Largest label of all splits, plus 1; None without class labels. Missing labels are −1."""
        if self.covariates:
            return None
        labels = [split.y for split in (self.train, self.val, self.test)]
        return max((int(y.max()) + 1 for y in labels if y is not None and len(y)), default=0) or None

    def split(self, name: str, num_data: int | None = None) -> Split:
        """Select the first `num_data` datapoints of `train`, `val` or `test`, or all, in memory.

        If batches of training data are random, they are drawn once, with a fixed seed.

        Raises:
            BadInput: if the split is unknown, empty or smaller, or all of it is requested and it is on disk.
        """
        split = {"train": self.train, **self.held_out}[one_of("split", name, SPLITS)]
        if not len(split):
            raise BadInput(f"split={name} is empty: give it a share of the data, as in data.{name}_fraction=0.1")
        first = split.first(num_data)
        return self._fixed(first) if name == "train" else first

    def sample(self) -> Split:
        """Draw as much of the training data as fits into memory, with a fixed seed."""
        return self._fixed(self.train.sample())

    def samples(self) -> list[Split]:
        """Draw as much of each split as fits into memory, with a fixed seed."""
        return [self.sample(), *filter(len, self.held_out.values())]

    def _fixed(self, train: Split) -> Split:
        """Draw training data with a fixed seed, if their batches are random."""
        return self._draw("train", train) if self.redrawn else train

    def require(self, x: Tensor) -> None:
        """Check that x `[N, *data_shape]` can be binarized or dequantized as requested.

        Raises:
            BadInput: if not.
        """
        if self.missing:
            x = x[~x.isnan()]
        if self.binarize != "none" and len(x):
            low, high = x.min().item(), x.max().item()
            if low < 0 or high > 1:
                raise BadInput(
                    f"binarize={self.binarize} needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
                    "rescale them or use binarize=none"
                )
        if self.dequantize:
            self.grid.require(x, "dequantize=true", "use dequantize=false")

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draw a training batch at `index` `[B]`: x `[B, *data_shape]`, and labels `[B]` or None."""
        return next(self.batches([index]))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield the `batch` at each of `indices`; data on disk are prefetched."""
        for x, y in self._drawn_from.batches(indices):
            if self.binarize == "dynamic" and not self.missing:
                x = bernoulli(x if x.dtype == torch.int16 else thresholds(x), torch.float32)
            elif self.redrawn:
                x = self._noisy(x)
            yield x, y

    @cached_property
    def _drawn_from(self) -> Split | Stored:
        """Training data; in memory and with dynamic binarization, their thresholds."""
        in_memory = isinstance(self.train, Split)
        quick = self.binarize == "dynamic" and in_memory and not self.missing  # integers have no NaN
        return self.train.map(thresholds) if quick else self.train

    def _draw(self, name: str, split: Split) -> Split:
        """Add noise that is the same in every run and on every device, and differs between splits."""
        generator = torch.Generator().manual_seed(1000 * self.eval_seed + SPLITS.index(name))
        return replace(split, x=self._noisy(split.x.cpu(), generator).to(split.x.device))

    def _noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Dequantize x, or draw x ~ Bernoulli(grey value); NaN stays NaN."""
        known = x.nan_to_num(0.0) if self.missing else x
        if self.dequantize:
            drawn = self.grid.dequantize(known, torch.rand(x.shape, generator=generator, device=x.device))
        else:
            drawn = torch.bernoulli(known, generator=generator)
        return torch.where(x.isnan(), x, drawn) if self.missing else drawn

    def to(self, device: torch.device | str) -> Dataset:
        """Move all splits to a device; returns self."""
        self.__dict__.pop("_drawn_from", None)
        self.train = self.train.to(device)
        self.held_out = {name: split.to(device) for name, split in self.held_out.items()}
        return self
