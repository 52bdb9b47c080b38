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
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import BadInput, one_line, printable, shown
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.runs import archive
from pyro_vae.runs.archive import Shape
from pyro_vae.runs.files import Folder
from pyro_vae.runs.plain import require_plain
from pyro_vae.runs.renamed import renamed

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
            epoch = printable(shown(saved["state"].get("epoch")))  # it may be anything: `State` checks it later
            log.warning("%s; going on from %s, epoch %s", error, self.previous, epoch)
            return saved


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint and verify it; only tensors and plain containers are accepted (`weights_only=True`).

    Raises:
        BadInput: if the file is missing, truncated, altered, or no checkpoint of this library.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint")
    try:
        checkpoint, outline = archive.read(path, device)
    except BadInput:
        raise
    except Exception as error:  # zip, pickle, EOF and runtime errors, according to where the file breaks
        raise_out_of_memory(error)
        raise BadInput(f"{path} is damaged or no checkpoint ({type(error).__name__}: {_brief(error)})") from error
    if type(checkpoint) is not dict or checkpoint.get("format") != FORMAT or not checkpoint.keys() >= KEYS:
        raise BadInput(f"{path} is no checkpoint of pyro_vae (format {FORMAT})")
    _require_form(outline, path)
    require_plain(checkpoint["config"], path)
    return {**checkpoint, "config": renamed(checkpoint["config"])}


def _require_form(outline: dict[str, Any], path: Path) -> None:
    """Check the types of the values of `KEYS`; `State` checks those of the training state.

    Raises:
        BadInput: if a value has another type.
    """

    def are_counts(values: Any) -> bool:
        return type(values) is list and len(values) < 10 and all(type(n) is int and 0 < n < 2**31 for n in values)

    def are_states(values: Any) -> bool:
        return type(values) is list and all(
            type(state) is dict and isinstance(state.get("cpu"), Shape) and type(state.get("cuda")) is list
            for state in values
        )

    def are_tensors(values: Any) -> bool:
        return type(values) is dict and all(
            type(name) is str and isinstance(shape, Shape) for name, shape in values.items()
        )

    right = {
        "config": type(outline["config"]) is dict,
        "data_shape": are_counts(outline["data_shape"]) and len(outline["data_shape"]) > 0,
        "num_classes": outline.get("num_classes") is None or are_counts([outline["num_classes"]]),
        "vae": are_tensors(outline["vae"]),
        "optim": type(outline["optim"]) is dict,
        "rng": are_states(outline["rng"]),
        "state": type(outline["state"]) is dict,
        "data": "data" not in outline or type(outline["data"]) is dict,
    }
    for name, good in right.items():
        if not good:
            raise BadInput(f"{path} was not written by pyro_vae: its {name} is not what a checkpoint has there")


def _brief(error: Exception) -> str:
    return one_line(error).split(". ")[0][:120]
