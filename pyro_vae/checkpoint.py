"""What a run saves, and how: atomically, the one before kept; loading verifies and never runs code from the file.

A checkpoint, format 1, is a zip archive as `torch.save` writes it, uncompressed, whose entries carry CRC-32 checksums:
a dict of tensors, numbers, strings and containers of them with the `KEYS`

    format      1
    config      the composed configuration
    data_shape  of one datapoint
    vae         state_dict of the model and the guide
    optim       `JointOptim.get_state()`
    rng         `get_rng_state()` of each process
    state       `trainer.State`
    num_classes of the labels, or None
    data        `data.fingerprint`; not in those of earlier versions
"""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import BadInput, one_line
from pyro_vae.files import Folder

log = logging.getLogger(__name__)

FORMAT = 1
KEYS = frozenset({"config", "data_shape", "vae", "optim", "rng", "state"})


class Checkpoints:
    """The checkpoints of a run: `last.pt`, `previous.pt`, the one before, and `best.pt`.

    Args:
        run_dir: the run, whose checkpoints/ they are.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "checkpoints"
        self.last, self.previous, self.best = (self.folder / f"{name}.pt" for name in ("last", "previous", "best"))
        self.damaged = False

    def exist(self) -> bool:
        """Whether there is one to go on from."""
        return self.last.is_file() or self.previous.is_file()

    def save(self, checkpoint: dict[str, Any], is_best: bool = False) -> None:
        """Save as the last, and as the best if it is. Cut off at any place, `load_last` finds it or the one before.

        Args:
            checkpoint: `KEYS`, whose values are tensors, numbers, strings and containers of them.
            is_best: whether to.
        """
        buffer = io.BytesIO()  # torch.save to a full disk raises no OSError; writing bytes does
        torch.save({"format": FORMAT, **checkpoint}, buffer)
        with Folder(self.folder) as folder:
            if is_best:  # first: cut off after it, a resumed run does the epoch again and writes both
                folder.write(self.best.name, buffer.getvalue())
            aside = self.last.with_suffix(".damaged") if self.damaged else self.previous
            folder.write(self.last.name, buffer.getvalue(), keep=aside.name)
        self.damaged = False

    def load_last(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The last checkpoint; if its file is damaged, the one before, with a warning: the next `save` puts it aside.

        Raises:
            BadInput: if neither can be read.
        """
        try:
            return load(self.last, device)
        except BadInput as error:
            if not self.previous.is_file():
                raise
            saved = load(self.previous, device)
            self.damaged = self.last.is_file()
            log.warning("warning: %s; going on from %s, epoch %d", error, self.previous, saved["state"]["epoch"])
            return saved


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint and verify it; only tensors and plain containers are accepted (`weights_only=True`).

    Raises:
        BadInput: if the file is missing, truncated, altered, or no checkpoint of this library.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint")
    try:
        _verify(path)
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip, pickle, EOF and runtime errors, according to where the file breaks
        raise BadInput(f"{path} is damaged or no checkpoint ({type(error).__name__}: {_brief(error)})") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT or not checkpoint.keys() >= KEYS:
        raise BadInput(f"{path} is no checkpoint of pyro_vae (format {FORMAT})")
    return checkpoint


def _verify(path: Path) -> None:
    """Compare checksums, which torch writes but does not read; refuse archives that would unpack to more than they are.

    Raises:
        ValueError: if the file is not what has been written.
    """
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        wrong = packed[0] if packed else archive.testzip()
    if wrong is not None:
        raise ValueError(f"the checksum of {wrong} does not hold")


def _brief(error: Exception) -> str:
    return one_line(error).split(". ")[0][:120]


def get_rng_state() -> dict[str, Any]:
    """State of torch's generators on all devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `get_rng_state()`'s value."""
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
