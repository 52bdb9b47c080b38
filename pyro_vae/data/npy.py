"""Reads arrays from untrusted .npy and .npz files: no code runs, and sizes in headers are checked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae.data.files import require_regular
from pyro_vae.errors import BadInput, one_line
from pyro_vae.errors.memory import require_memory

MAX_HEADER = 10_000
"""NumPy's limit in bytes, which it checks only after reading the header."""

FROM_TORCH = "convert it once, np.save(FILE.npy, torch.load(FILE, weights_only=True).numpy())"
FROM_TEXT = "convert it once, np.save(FILE.npy, np.loadtxt(FILE, delimiter=','))"
FROM_TABLE = "convert it once, np.save(FILE.npy, table.to_numpy('float32')), with pandas"
CONVERSIONS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt"), FROM_TORCH),
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "use data=table data.path=FILE"),
    ".txt": FROM_TEXT,
    **dict.fromkeys((".feather", ".xlsx", ".pkl", ".pickle"), FROM_TABLE),
    **dict.fromkeys((".h5", ".hdf5"), "convert it once, np.save(FILE.npy, h5py.File(FILE)[NAME][:])"),
    **dict.fromkeys((".png", ".jpg", ".jpeg"), "use data=image_folder data.root=FOLDER"),
}
"""Instructions for files in other formats, by suffix."""


def read(path: str, key: str | None, option: str = "key", labels: str | None = None) -> np.ndarray:
    """Map the array in a .npy file, or load an entry of a .npz file.

    Args:
        path: the file.
        key: name of the entry; None: the only one besides the labels.
        option: parameter that gave `key`, for messages.
        labels: name of the entry that holds the labels.

    Raises:
        BadInput: if the file or the entry is missing, unreadable, ambiguous, or larger than memory.
    """
    name = f"path={path}"
    require_regular(path, name)
    if conversion := CONVERSIONS.get(Path(path).suffix.lower()):
        raise BadInput(f"{name} is not a .npy or .npz file: {conversion}")
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":
                return _of_archive(file, path, key, option, labels)
            file.seek(0)
            _require_short_header(file)
        if key is not None:
            raise BadInput(f"{option}={key}: {path} holds a single unnamed array: omit {option}")
        with np.errstate(over="ignore"):  # numpy rejects impossible sizes itself
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except BadInput:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds on a broken file
        reason = "text or Python objects" if "allow_pickle" in str(error) else one_line(error)
        entry = "" if key is None else f", {option}={key}"
        raise BadInput(
            f"{name}{entry} is not a readable .npy or .npz file ({reason}): save an array of numbers with numpy.save; "
            "numpy.loadtxt reads text"
        ) from error


def _of_archive(file: IO[bytes], path: str, key: str | None, option: str, labels: str | None) -> np.ndarray:
    """Load one entry of a .npz file, after checking its size."""
    with zipfile.ZipFile(file) as archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in entries:
                raise BadInput(f"{path} holds two entries named {name}: save it again with np.savez")
            entries[name] = info
        if any(name.endswith("/data.pkl") for name in entries):
            raise BadInput(f"path={path} is a file of torch.save: {FROM_TORCH}")
        others = [name for name in entries if name != labels]
        if key is None and len(others) == 1:
            key = others[0]
        if key is None:
            which = f": give key=NAME, one of {_listed(others)}" if others else f" beside {labels}" if labels else ""
            raise BadInput(f"{path} holds {len(others)} arrays{which}")
        info_of_key = entries.get(key, entries.get(key.removesuffix(".npy")))
        if info_of_key is None:
            raise BadInput(f"{option}={key} is not an entry of {path}: choose one of {_listed(list(entries))}")
        if info_of_key.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("compressed by a method that NumPy does not use")
        # zipfile unpacks at most this much
        require_memory(
            info_of_key.file_size,
            f"path={path}: {key} unpacks to",
            "save a .npy file, which is read from disk as needed",
        )
        with archive.open(info_of_key) as entry:
            _require_short_header(entry)
        with archive.open(info_of_key) as entry:
            array: Any = np.lib.format.read_array(entry, allow_pickle=False)
    return np.asarray(array)


def _require_short_header(file: IO[bytes]) -> None:
    """Check the size of the header, which NumPy would read into memory before rejecting it."""
    start = file.read(12)
    size = int.from_bytes(start[8:10] if start[6:7] == b"\x01" else start[8:12], "little")
    if start.startswith(np.lib.format.MAGIC_PREFIX) and size > MAX_HEADER:
        raise ValueError(f"a header of {size} bytes")


def _listed(names: list[str]) -> str:
    """List the first ten names."""
    return ", ".join(name[:40] for name in names[:10]) + (", …" if len(names) > 10 else "")
