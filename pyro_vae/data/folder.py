"""Data sets of your own images in a folder."""

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
"""Maximum number of prefetching workers: the number may come from an untrusted file, and each needs memory."""


class Images(torch.utils.data.Dataset[Tensor]):
    """Images ROOT/CLASS/NAME.png, scaled and cropped to squares.

    Args:
        root: folder with a subfolder of images for each class.
        size: height and width in pixels: the shorter side is scaled to it, the longer side cropped at the center.
        channels: 1 for grey, 3 for RGB.

    Raises:
        BadInput: if `root` or a class has no images.
    """

    def __init__(self, root: str, size: int, channels: int) -> None:
        vision = torchvision()
        if not Path(root).is_dir():
            raise BadInput(f"root={root}: no such folder")
        self.size = size
        self.paths, self.labels, self.classes = in_classes(root)
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
        """Read an image as viewers show it: rotated by its EXIF orientation, 8 bits per channel."""
        from PIL import ImageOps

        with opened(path, self.size) as image:
            if image.mode == "F" or image.mode.startswith("I"):  # PIL would clip these at 255
                raise ValueError(
                    f"its mode {image.mode} has more than 8 bits per channel: convert it, or use data=array"
                )
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
    """Load images ROOT/CLASS/NAME.png (or .jpg, …) as `[channels, size, size]` in [0, 1]; classes are the labels.

    Classes are numbered by name. Training images are streamed by prefetching workers.

    Args:
        root: the folder.
        size: height and width in pixels: the shorter side is scaled to it, the longer side cropped at the center.
        channels: 1 for grey, 3 for RGB.
        val_fraction: share of the data for validation.
        test_fraction: share of the data for testing.
        split_seed: seed of the random split, stratified by class.
        max_held_out: maximum number of images for validation, and for testing: both sets are kept in memory.
        num_workers: number of prefetching workers; `auto`: one for each available core, at most 4.
        **kwargs: `binarize`, `eval_seed`, `num_levels`, `dequantize` and `num_labels` of `Dataset`.

    Raises:
        BadInput: if there are no images, or an option is out of range. Unreadable images raise it when they are needed.
    """
    if root is None:
        raise BadInput("root is missing: give root=FOLDER, a folder with images in FOLDER/CLASS/")
    if num_workers != "auto":
        integer("num_workers", num_workers, high=MAX_WORKERS)
    positive_int("size", size)
    one_of("channels", str(channels), ("1", "3"))
    images = Images(str(root), size, channels)
    y = torch.tensor(images.labels)
    parts = split_indices(len(images), y, val_fraction, test_fraction, split_seed, max_held_out)
    workers = min(4, _num_cores()) if num_workers == "auto" else int(num_workers)
    return Dataset(
        *stored(images, torch.Size([channels, size, size]), parts, y, workers), classes=images.classes, **kwargs
    )


def _num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
