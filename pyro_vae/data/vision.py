"""torchvision's data sets, from files on disk or else by torchvision's download."""

from __future__ import annotations

import hashlib
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.files import require_regular
from pyro_vae.data.images import distinct, opened, warn_of_links
from pyro_vae.data.split import Split
from pyro_vae.errors import BadInput, integer, one_line
from pyro_vae.errors.memory import require_memory


def torchvision() -> Any:
    """Import torchvision, which the rest of the library does not need."""
    try:
        import torchvision
    except Exception as error:  # a build for another torch raises RuntimeError, a missing one ImportError
        raise BadInput(
            f"this data set needs a torchvision that matches torch {torch.__version__} ({one_line(error)}): "
            "pip install --upgrade torch torchvision, or use data=mnist5k, which works without it"
        ) from error
    return torchvision


_may_download = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Forbid downloads in this context: a configuration from an untrusted file must not start any."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


@contextmanager
def _patience(seconds: float) -> Any:
    """Limit the time of every connection attempt, which torchvision does not."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load(name: str, make: Callable[[bool], tuple[Split, Split]], folder: Path, files: str) -> tuple[Split, Split]:
    """Load training and test set from disk, or else by download.

    Raises:
        BadInput: if neither works, with the folder and the files it should hold.
    """
    try:
        return make(False)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # torchvision raises many kinds of errors on damaged files
        if not isinstance(error, RuntimeError):  # "Dataset not found"
            raise BadInput(f"{name}: the files in {folder} are damaged ({one_line(error)}): delete them") from error
        if not _may_download.get():
            raise BadInput(
                f"{name}: {folder.resolve()} should hold {files}: give their folder by root=DIR, or download "
                f"them with python -m pyro_vae.train data={name}"
            ) from error
    try:
        with _patience(5):
            return make(True)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        raise BadInput(
            f"{name}: {folder.resolve()} should hold {files}, and downloading them failed ({one_line(error)}); "
            "put them there, give their folder by root=DIR, or use data=mnist5k, which needs no download"
        ) from error


UNPACKED_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the unpacked files."""


def _verify(cls: Any, folder: Path) -> None:
    """Compare the unpacked files that exist with the published ones.

    torchvision has the MD5 of the packed files, and checks it after a download. A packed file holds the CRC-32 of its
    content, so it verifies an unpacked file beside it. The MD5 of MNIST's unpacked files is known.

    Raises:
        BadInput: if a file differs.
    """
    for name, md5 in cls.resources:
        packed, file = folder / name, folder / Path(name).stem
        if not file.is_file():
            continue
        content = file.read_bytes()
        if cls.__name__ == "MNIST":
            same = _md5(content) == UNPACKED_MNIST[file.name]
        elif packed.is_file() and _md5(published := packed.read_bytes()) == md5:
            same = struct.unpack("<II", published[-8:]) == (zlib.crc32(content), len(content))
        else:  # nothing to compare with; torchvision checks the header
            continue
        if not same:
            raise BadInput(
                f"{file} is not the published file: delete it to download it again; if the data are your own, "
                "set verify=false"
            )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _idx(
    cls_name: str,
    name: str,
    root: str,
    num_val: int,
    split_seed: int,
    verify: bool,
    kwargs: dict[str, Any],
    num_train: int | None = None,
) -> Dataset:
    """Load MNIST or a set of the same format: 60,000 training and 10,000 test images of 28x28."""
    original = getattr(torchvision().datasets, cls_name)
    # never load the pickles of early versions of torchvision; the class name must be that of the folder
    cls: Any = type(cls_name, (original,), {"_check_legacy_exist": lambda self: False})
    for resource, _ in cls.resources:
        file = Path(root) / cls_name / "raw" / Path(resource).stem
        if file.exists():
            size = require_regular(file, str(file)).st_size
            require_memory(size, f"{file} takes", "it is not the published file", copies=8)  # 4 as floats
    if verify:
        _verify(cls, Path(root) / cls_name / "raw")

    def make(download: bool) -> tuple[Split, Split]:
        sets = [cls(root, train=train, download=download) for train in (True, False)]
        train, test = (Split(s.data.float().unsqueeze(1) / 255, s.targets.long()) for s in sets)
        return train, test

    files = "the unpacked {train,t10k}-{images-idx3,labels-idx1}-ubyte"
    whole_train, test = _load(name, make, Path(root) / cls_name / "raw", files)
    train, val = _hold_out(whole_train, num_val, split_seed)
    if num_train is not None and not 1 <= integer("num_train", num_train) <= len(train):
        raise BadInput(f"num_train={num_train} must lie between 1 and {len(train)}")
    return Dataset(train.first(num_train), val, test, **kwargs)


def _hold_out(train: Split, num_val: int, split_seed: int) -> tuple[Split, Split]:
    """Draw a validation set at random; the training images keep the order of the files."""
    if not 0 <= integer("num_val", num_val) < len(train):
        raise BadInput(f"num_val={num_val} must lie between 0 and {len(train) - 1}")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(integer("split_seed", split_seed)))
    return train.at(order[num_val:].sort().values), train.at(order[:num_val])


def mnist(
    root: str = "data",
    num_val: int = 5000,
    split_seed: int = 0,
    verify: bool = True,
    num_train: int | None = None,
    **kwargs: Any,
) -> Dataset:
    """Load MNIST: 55,000/5,000/10,000 digits `[1, 28, 28]` in [0, 1].

    Args:
        root: folder with `MNIST/raw`, or to which it is downloaded.
        num_val: number of training images held out for validation.
        split_seed: seed of that choice.
        verify: compare the files' checksums with the published ones.
        num_train: number of the remaining images to train on, the first in the order of the files; None: all.
        **kwargs: `binarize`, `eval_seed`, `num_levels`, `dequantize` and `num_labels` of `Dataset`.

    Raises:
        BadInput: if the files are missing and cannot be downloaded, are damaged, or torchvision cannot be imported.
    """
    return _idx("MNIST", "mnist", root, num_val, split_seed, verify, kwargs, num_train)


def fashion_mnist(
    root: str = "data", num_val: int = 5000, split_seed: int = 0, verify: bool = True, **kwargs: Any
) -> Dataset:
    """Load Fashion-MNIST: 55,000/5,000/10,000 articles of clothing; arguments and errors as for `mnist`."""
    return _idx("FashionMNIST", "fashion_mnist", root, num_val, split_seed, verify, kwargs)


def kmnist(root: str = "data", num_val: int = 5000, split_seed: int = 0, verify: bool = True, **kwargs: Any) -> Dataset:
    """Load Kuzushiji-MNIST: 55,000/5,000/10,000 cursive characters; arguments and errors as for `mnist`."""
    return _idx("KMNIST", "kmnist", root, num_val, split_seed, verify, kwargs)


def omniglot(root: str = "data", num_val: int = 1000, split_seed: int = 0, **kwargs: Any) -> Dataset:
    """Load Omniglot, 28x28, strokes white: 19,280 background characters (less num_val) and 13,180 test characters.

    This is torchvision's split, not that of the IWAE paper: training and test sets have different alphabets, and equal
    labels mean different characters, so models cannot be conditioned on them.
    Arguments and errors as for `mnist`.
    """
    cls = torchvision().datasets.Omniglot

    def make(download: bool) -> tuple[Split, Split]:
        train, test = (
            _characters(Path(cls(root, background=b, download=download).target_folder)) for b in (True, False)
        )
        return train, test

    files = "the unpacked folders images_background and images_evaluation and their .zip files"
    train, test = _load("omniglot", make, Path(root) / "omniglot-py", files)
    return Dataset(*_hold_out(train, num_val, split_seed), test, **kwargs)


def _characters(folder: Path) -> Split:
    """Read drawings ALPHABET/CHARACTER/NAME.png, 105x105, black on white, as `[1, 28, 28]` in [0, 1], white on black.

    They are sorted by name; torchvision lists them in the order of the file system, which differs between disks.
    """
    from PIL import Image

    found = sorted(folder.glob("*/*/*.png"))
    paths = [Path(path) for path in distinct([str(path) for path in found])]
    warn_of_links(len(found) - len(paths), folder)
    label = {character: i for i, character in enumerate(sorted({path.parent for path in paths}))}
    x = []
    for path in paths:
        with opened(path, size=28) as image:
            small = image.convert("L").resize((28, 28), Image.Resampling.BOX)
        x.append(torch.from_numpy(1 - np.asarray(small, dtype=np.float32) / 255))
    return Split(torch.stack(x).unsqueeze(1), torch.tensor([label[path.parent] for path in paths]))
