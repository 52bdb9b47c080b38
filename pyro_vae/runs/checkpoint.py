"""Checkpoints: written atomically with the previous one kept, and verified on loading without running code.

A checkpoint, format 1, is a zip archive as `torch.save` writes it, uncompressed, whose entries carry CRC-32 checksums:
a dict of tensors, numbers, strings and containers of them with the `KEYS`

    format      1
    config      the composed configuration
    data_shape  shape of one datapoint
    vae         state_dict of the model and the guide
    optim       `JointOptim.get_state()`
    rng         `get_rng_state()` of each process
    state       `training.trainer.State`
    num_classes number of classes, or None
    classes     names of the classes, if they have any
    features    names of the columns of x, if they have names and x is not a table
    covariates  columns of y, `schema.Column.as_plain`; left out without covariates
    missing     True if entries of the data may be missing; left out otherwise
    data        `data.fingerprint`; missing in checkpoints of earlier versions
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
    """The checkpoints of a run: `last.pt`, the one before it, `previous.pt`, and `best.pt`.

    Args:
        run_dir: the run directory, with the folder checkpoints/.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "checkpoints"
        self.last, self.previous, self.best = (self.folder / f"{name}.pt" for name in ("last", "previous", "best"))
        self.damaged = False

    def exist(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.last.is_file() or self.previous.is_file()

    def save(self, checkpoint: dict[str, Any], is_best: bool = False) -> None:
        """Save the last checkpoint, and with `is_best` the best one.

        If the process is killed anywhere in here, `load_last` finds this checkpoint or the one before.

        Args:
            checkpoint: dict with `KEYS`; values are tensors, numbers, strings and containers of them.
            is_best: whether this is the best epoch so far.
        """
        buffer = io.BytesIO()  # writing bytes to a full disk raises OSError, unlike torch.save
        torch.save({"format": FORMAT, **checkpoint}, buffer)
        with Folder(self.folder) as folder:
            if is_best:  # first: if killed after it, a resumed run repeats the epoch and writes both
                folder.write(self.best.name, buffer.getvalue())
            aside = self.last.with_suffix(".damaged") if self.damaged else self.previous
            folder.write(self.last.name, buffer.getvalue(), keep=aside.name)
        self.damaged = False

    def load_last(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Load the last checkpoint or, with a warning, the previous one if the last is damaged.

        The next `save` keeps a damaged file as `last.damaged`.

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
    """Read and verify a checkpoint, which may hold only tensors and plain containers (`weights_only=True`).

    Raises:
        BadInput: if the file is missing, damaged, or not a checkpoint of this library.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint")
    try:
        checkpoint, outline = archive.read(path, device)
    except BadInput:
        raise
    except Exception as error:  # zip, pickle, EOF and runtime errors, depending on the damage
        raise_out_of_memory(error)
        raise BadInput(f"{path} is damaged or not a checkpoint ({type(error).__name__}: {_brief(error)})") from error
    if type(checkpoint) is not dict or checkpoint.get("format") != FORMAT or not checkpoint.keys() >= KEYS:
        raise BadInput(f"{path} is not a checkpoint of pyro_vae (format {FORMAT})")
    _require_form(outline, path)
    require_plain(checkpoint["config"], path)
    return {**checkpoint, "config": renamed(checkpoint["config"])}


def _require_form(outline: dict[str, Any], path: Path) -> None:
    """Check the types of the values of `KEYS`; `State.of` checks the training state.

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

    def are_names(values: Any) -> bool:
        return type(values) is list and all(type(name) is str for name in values)

    right = {
        "config": type(outline["config"]) is dict,
        "data_shape": are_counts(outline["data_shape"]) and len(outline["data_shape"]) > 0,
        "num_classes": outline.get("num_classes") is None or are_counts([outline["num_classes"]]),
        "covariates": type(outline.get("covariates", [])) is list,
        "classes": are_names(outline.get("classes", [])),
        "features": are_names(outline.get("features", [])),
        "missing": type(outline.get("missing", False)) is bool,
        "vae": are_tensors(outline["vae"]),
        "optim": type(outline["optim"]) is dict,
        "rng": are_states(outline["rng"]),
        "state": type(outline["state"]) is dict,
        "data": "data" not in outline or type(outline["data"]) is dict,
    }
    for name, good in right.items():
        if not good:
            raise BadInput(f"{path} was not written by pyro_vae: its {name} is not valid")


def _brief(error: Exception) -> str:
    return one_line(error).split(". ")[0][:120]
