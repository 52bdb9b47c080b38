"""The user's own images, in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.images import in_classes, opened
from pyro_vae.data.split import split_indices, stored
from pyro_vae.data.vision import torchvision
from pyro_vae.errors import BadInput, integer, one_of, positive_int

MAX_WORKERS = 64
"""Processes that read ahead, at most: each takes memory, and their number may come out of a stranger's file."""


class Images(torch.utils.data.Dataset[Tensor]):
    """Images ROOT/CLASS/NAME.png, cut to squares.

    Args:
        root: has a folder of images for each class.
        size: pixels a side: the shorter side is scaled to it, of the longer the middle is cut out.
        channels: 1, grey, or 3, colours.

    Raises:
        BadInput: if there is no folder, or no image in one.
    """

    def __init__(self, root: str, size: int, channels: int) -> None:
        vision = torchvision()
        if not Path(root).is_dir():
            raise BadInput(f"root={root}: no such folder")
        self.size = size
        self.paths, self.labels = in_classes(root)
        transforms = vision.transforms
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.CenterCrop(size),
                *([transforms.Grayscale()] if channels == 1 else []),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, index: Sequence[int]) -> Tensor | BadInput:
        """Read bytes `[B, channels, size, size]`. An error is returned, since torch would wrap one that is raised."""
        try:
            return torch.stack([self._read(self.paths[i]) for i in index])
        except BadInput as error:
            return error

    def _read(self, path: str) -> Tensor:
        """The image as viewers show it: turned as its camera says, in colours of 8 bits."""
        from PIL import ImageOps

        with opened(path, self.size) as image:
            if image.mode == "F" or image.mode.startswith("I"):  # which PIL would cut off at 255
                raise ValueError(f"pixels of mode {image.mode}, of more than 8 bits: convert them, or take data=array")
            x: Tensor = self.transform(ImageOps.exif_transpose(image).convert("RGB"))
            return x


def image_folder(
    root: str | None,
    size: int = 64,
    channels: int = 3,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    split_seed: int = 0,
    max_held_out: int | None = 1000,
    num_workers: int | str = "auto",
    **kwargs: Any,
) -> Dataset:
    """Images ROOT/CLASS/NAME.png (or .jpg …) `[channels, size, size]` in [0, 1]; the classes, by name, are the labels.

    Training images are read from disk as they are needed.

    Args:
        root: the folder.
        size: pixels a side: the shorter side is scaled to it, of the longer the middle is cut out.
        channels: 1, grey, or 3, colours.
        val_fraction: share of the validation set.
        test_fraction: share of the test set.
        split_seed: seed of the random split, stratified by class.
        max_held_out: at most so many images for validation, and as many for testing: they are kept in memory.
        num_workers: processes that read ahead; 0: none; `auto`: as many as there are cores for this one, at most 4.
        **kwargs: `binarize`, `eval_seed`, `num_levels` and `dequantize` of `Dataset`.

    Raises:
        BadInput: if there are no such images, one is broken (where it is read), or an option is out of its range.
    """
    if root is None:
        raise BadInput("root is missing: give root=FOLDER, with images in FOLDER/CLASS/")
    if num_workers != "auto":
        integer("num_workers", num_workers, high=MAX_WORKERS)
    positive_int("size", size)
    one_of("channels", str(channels), ("1", "3"))
    images = Images(str(root), size, channels)
    y = torch.tensor(images.labels)
    parts = split_indices(len(images), y, val_fraction, test_fraction, split_seed, max_held_out)
    workers = min(4, _num_cores()) if num_workers == "auto" else int(num_workers)
    return Dataset(*stored(images, torch.Size([channels, size, size]), parts, y, workers), **kwargs)


def _num_cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
