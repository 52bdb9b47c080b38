"""Reads image files from untrusted folders: known formats only, each file once."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any

from pyro_vae.data.files import identity, require_regular
from pyro_vae.errors import BadInput, one_line

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""Accepted formats, recognized by content. For others PIL may start programs, such as Ghostscript for EPS."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File name suffixes in lower case, as in torchvision's `ImageFolder`."""

MAX_SCALED = 2**26
"""Maximum number of pixels of an image after scaling."""


@contextmanager
def opened(path: str | os.PathLike[str], size: int) -> Iterator[Any]:
    """Open an image file with PIL, for scaling its shorter side to `size` pixels.

    Raises:
        BadInput: naming the file, if it is not a readable image or is too large, and for any error within.
    """
    from PIL import Image

    require_regular(path, str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage that matters raises an error
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                short, long = sorted(image.size)
                if size * size * long > MAX_SCALED * short:
                    raise ValueError(f"{image.width}x{image.height} pixels, too thin to scale to {size} a side")
                yield image
    except Exception as error:  # PIL raises a dozen kinds on a broken file
        raise BadInput(
            f"{path} is not a readable image ({one_line(error)}): repair it, or remove it from the folder"
        ) from error


def in_classes(root: str) -> tuple[list[str], list[int], list[str]]:
    """List the images below ROOT/CLASS/ and their class numbers, sorted by name, and the names of the classes.

    Links are followed. Each image counts once, so that none is in both the training and the test set.

    Raises:
        BadInput: if there are no classes, a class has no images, or a file is not regular.
    """
    should = f"root={root} should hold images as CLASS/NAME.png"
    try:
        classes = sorted(entry.name for entry in os.scandir(root) if os.path.isdir(entry.path))
        found, num_folders = _below([os.path.join(root, name) for name in classes], root)
    except OSError as error:
        raise BadInput(f"{should}: {one_line(error)}") from error
    if not classes:
        raise BadInput(f"{should}: it has no subfolders")
    label_of = {os.path.join(folder, name): label for label, folder, name in found}
    paths = distinct(list(label_of))
    warn_of_links(num_folders + len(label_of) - len(paths), root)
    labels = [label_of[path] for path in paths]
    used = set(labels)
    if empty := [name for label, name in enumerate(classes) if label not in used]:
        raise BadInput(
            f"{should}: {', '.join(empty[:5])} has no files ending in {', '.join(SUFFIXES)}, "
            "or only links to other classes"
        )
    return paths, labels, classes


def _below(classes: list[str], root: str) -> tuple[list[tuple[int, str, str]], int]:
    """List class, folder and name of each image, sorted, and count the links to folders that were already read.

    A folder is read once, under a path without links if there is one, so circular links are harmless.
    """
    seen, found, num_again = {identity(os.stat(root))}, [], 0
    waiting = [(os.path.islink(folder), label, folder) for label, folder in enumerate(classes)]
    heapify(waiting)
    while waiting:
        _, label, folder = heappop(waiting)  # links last
        this = identity(os.stat(folder))
        if this in seen:
            num_again += 1
            continue
        seen.add(this)
        for entry in os.scandir(folder):
            if os.path.isdir(entry.path):
                heappush(waiting, (entry.is_symlink(), label, entry.path))
            elif entry.name.lower().endswith(SUFFIXES):
                found.append((label, folder, entry.name))
    return sorted(found), num_again


def distinct(paths: Sequence[str]) -> list[str]:
    """Keep one path to each file, in the given order; a link only if no other path leads to the file.

    Raises:
        BadInput: if a path is not a regular file.
    """
    first: dict[tuple[int, int], str] = {}
    for path in sorted(paths, key=os.path.islink):
        first.setdefault(identity(require_regular(path, path)), path)
    kept = set(first.values())
    return [path for path in paths if path in kept]


def warn_of_links(num_links: int, root: str | os.PathLike[str]) -> None:
    """Warn that some images were found more than once."""
    if num_links:
        log.warning(
            "%d links below %s lead to images that are already listed: each image counts once",
            num_links,
            root,
        )
