"""torchvision's sets: files on disk where they are there, else torchvision's own download."""

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
    """torchvision, imported only now: the rest of the library runs where it cannot be imported."""
    try:
        import torchvision
    except Exception as error:  # a build for another torch raises RuntimeError, a missing one ImportError
        raise BadInput(
            f"this data set needs a torchvision that matches torch {torch.__version__} ({one_line(error)}): "
            "pip install --upgrade torch torchvision, or take data=mnist5k, which needs none"
        ) from error
    return torchvision


_may_download = ContextVar("may_download", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Within, data sets are read from disk only: a configuration from a file must not fetch anything."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


@contextmanager
def _patience(seconds: float) -> Any:
    """Bound every connection attempt: torchvision's download sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _load(name: str, make: Callable[[bool], tuple[Split, Split]], folder: Path, files: str) -> tuple[Split, Split]:
    """Training and test set from disk, else by download.

    Raises:
        BadInput: with the folder and the files it should hold, if neither gives the data.
    """
    try:
        return make(False)
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # torchvision raises many kinds on files that are damaged
        if not isinstance(error, RuntimeError):  # "Dataset not found"
            raise BadInput(f"{name}: the files in {folder} are damaged ({one_line(error)}): delete them") from error
        if not _may_download.get():
            raise BadInput(
                f"{name}: {folder.resolve()} should hold {files}: name their folder by root=DIR, or download "
                f"them by python -m pyro_vae.train data={name}"
            ) from error
    try:
        with _patience(5):
            return make(True)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        raise BadInput(
            f"{name}: {folder.resolve()} should hold {files}, and downloading them failed ({one_line(error)}); "
            "put them there, name their folder by root=DIR, or take data=mnist5k, which needs no download"
        ) from error


UNPACKED_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the files that torchvision's packed ones hold."""


def _verify(cls: Any, folder: Path) -> None:
    """Compare the unpacked files, as far as they are there, with what has been published.

    torchvision knows the MD5 of the packed files, and looks at it when it downloads them. Where they lie beside, they
    tell the CRC-32 of what they hold; MNIST's is known without them.

    Raises:
        BadInput: if a file is another.
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
        else:  # nothing to compare with; torchvision looks at the header
            continue
        if not same:
            raise BadInput(
                f"{file} is not the published file: delete it, and it is downloaded again; if the data are your own, "
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
    """MNIST and the sets that have its format: 60,000 training and 10,000 test images of 28x28."""
    original = getattr(torchvision().datasets, cls_name)
    # not the pickles of early versions of torchvision, which may hold anything; the name is that of the folder
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
    """Training and validation set, at random; the former in the order of the files."""
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
    """MNIST: 55,000/5,000/10,000 digits `[1, 28, 28]` in [0, 1].

    Args:
        root: folder that holds, or gets, `MNIST/raw`.
        num_val: how many of the training images to validate on; 0: none, all are trained on.
        split_seed: seed of that choice.
        verify: compare the files' checksums with the published ones.
        num_train: train on the first so many of the others, in the order of the files; None: on all.
        **kwargs: `binarize`, `eval_seed`, `num_levels` and `dequantize` of `Dataset`.

    Raises:
        BadInput: if the files are not there and cannot be downloaded or are damaged, or torchvision cannot be imported.
    """
    return _idx("MNIST", "mnist", root, num_val, split_seed, verify, kwargs, num_train)


def fashion_mnist(
    root: str = "data", num_val: int = 5000, split_seed: int = 0, verify: bool = True, **kwargs: Any
) -> Dataset:
    """Fashion-MNIST: 55,000/5,000/10,000 articles of clothing; arguments and errors as for `mnist`."""
    return _idx("FashionMNIST", "fashion_mnist", root, num_val, split_seed, verify, kwargs)


def kmnist(root: str = "data", num_val: int = 5000, split_seed: int = 0, verify: bool = True, **kwargs: Any) -> Dataset:
    """Kuzushiji-MNIST: 55,000/5,000/10,000 cursive characters; arguments and errors as for `mnist`."""
    return _idx("KMNIST", "kmnist", root, num_val, split_seed, verify, kwargs)


def omniglot(root: str = "data", num_val: int = 1000, split_seed: int = 0, **kwargs: Any) -> Dataset:
    """Omniglot, 28x28, strokes white: 19,280 background characters (less num_val) and 13,180 test ones.

    These are other alphabets in training and test, torchvision's split, and not the split of the IWAE paper: the same
    label is another character there, so that nothing can be conditioned on it.
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
    """Drawings ALPHABET/CHARACTER/NAME.png of 105x105, black on white, to `[1, 28, 28]` in [0, 1], white on black.

    In the order of their names: torchvision's is that in which the file system lists them, another on each disk.
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
