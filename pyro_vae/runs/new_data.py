"""New data for a trained model, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pyro_vae.data import Dataset, Split, npy
from pyro_vae.data.covariates import split_off, values_for
from pyro_vae.data.frames import to_x
from pyro_vae.data.schema import modelled
from pyro_vae.data.text_tables import numbers_of, read_table
from pyro_vae.data.values import as_floats
from pyro_vae.data.y import labels_of
from pyro_vae.errors import BadInput, positive_int
from pyro_vae.errors.memory import require_memory
from pyro_vae.vae import VAE
from pyro_vae.vae.context import Covariates

DRAWN = ("binarize", "eval_seed", "num_levels", "dequantize")
"""Options of a data set that change its values."""


@dataclass(frozen=True)
class NewData:
    """Rows of a file.

    Attributes:
        path: the file.
        split: x and maybe y, as the model needs them; NaN is missing.
        entries: names of the entries of x, row by row: those of a table's columns, else indices such as `[0, 3]`.
        frame: the rows as a polars data frame, if they are of a table.
    """

    path: str
    split: Split
    entries: list[str]
    frame: Any = None

    @property
    def name(self) -> str:
        """The name of the file, without its suffix."""
        return Path(self.path).stem

    @property
    def has_holes(self) -> bool:
        """Whether an entry is missing."""
        return bool(self.split.x.isnan().any())

    def to(self, device: torch.device) -> NewData:
        """Copy x and y to a device."""
        return replace(self, split=self.split.to(device))

    def require_complete(self, vae: VAE, needed: bool) -> None:
        """Check that no entry is missing, if that is needed and the model has been trained on complete data.

        Raises:
            BadInput: otherwise.
        """
        if needed and self.has_holes and not (vae.missing or vae.likelihood.columns):
            raise BadInput(
                f"path={self.path} holds NaN, but the training data were complete: train with data.missing=true, or "
                "draw the missing values with score=false impute=true"
            )


def read(vae: VAE, saved: Mapping[str, Any], place: Mapping[str, Any], num_data: int | None) -> NewData:
    """Read the rows of a file for a trained model, and binarize or dequantize them as the run's held-out data.

    Args:
        vae: the model.
        saved: its checkpoint.
        place: `path`, and `key`, `label_key` of a .npz file or the `separator` of a CSV file, or None.
        num_data: number of rows to use, from the first on; None: all.

    Raises:
        BadInput: if the file cannot be read, or does not fit the model.
    """
    path, config = str(place["path"]), saved["config"]["data"]
    name, num_classes = f"path={path}", vae.num_classes if vae.needs_labels else None
    if vae.likelihood.columns:
        if num_classes is not None:
            raise BadInput(f"{name}: the model is conditional, and a table's labels cannot be read: use Python")
        return _of_table(vae, place, config.get("separator"), num_data)
    if Path(path).suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise BadInput(f"{name} is a table, but the run was trained on arrays: save the rows to a .npy file")
    key, label_key = (None if place[name] is None else str(place[name]) for name in ("key", "label_key"))
    if vae.needs_labels and label_key is None:
        raise BadInput(f"{name}: the model is conditional: give FILE.npz, and its entry with labels, label_key=NAME")
    values = npy.read(path, key, labels=label_key)
    if values.shape[1:] != tuple(vae.data_shape):
        raise BadInput(f"{name} has shape {list(values.shape)}: the model needs [N, {_listed(vae)}]")
    values = values[: _rows(num_data, len(values), name)]
    require_memory(4 * values.size, f"{name} takes, as floats,", "set num_data=N, smaller", copies=2)
    x = as_floats(values, name, device="cpu", units=vae.likelihood.units)
    if x.isinf().any():
        raise BadInput(f"{name} holds infinite values: set missing ones to NaN")
    y = None
    if label_key is not None and vae.needs_labels:
        values = npy.read(path, label_key, "label_key")[: len(x)]
        of_file = f"label_key={label_key}"
        if isinstance(vae.context, Covariates):
            y = values_for(values, vae.context.columns, len(x), of_file).float()
        else:
            y = labels_of(values, len(x), of_file, vae.classes)
        if num_classes is not None and (y >= num_classes).any():
            raise BadInput(f"label_key={label_key} must hold labels from 0 to {num_classes - 1}")
    none = Split(x[:0], None if y is None else y[:0])
    settings = {name: config[name] for name in DRAWN if name in config}
    drawn = Dataset(Split(x, y), none, none, missing=bool(x.isnan().any()), **settings).split("train")
    return NewData(path, drawn, [str(list(place)) for place in torch.ones(vae.data_shape).nonzero().tolist()])


def _of_table(vae: VAE, place: Mapping[str, Any], separator: str | None, num_data: int | None) -> NewData:
    path, columns = str(place["path"]), vae.likelihood.columns
    name = f"path={path}"
    kinds = {column.name: column.kind for column in columns}
    covariates = vae.context.columns if isinstance(vae.context, Covariates) else ()
    frame = read_table(path, kinds, place["separator"] or separator, numbers_of([*columns, *covariates]))
    frame = frame.head(_rows(num_data, len(frame), name))
    rows, y = frame, None
    if isinstance(vae.context, Covariates):
        rows, of_y = split_off(frame, vae.context.names, name)
        y = values_for(of_y, vae.context.columns, len(frame), name).float()
    return NewData(path, Split(to_x(rows, columns, name), y), [column.name for column in modelled(columns)], frame)


def _rows(num_data: int | None, most: int, name: str) -> int:
    if not most:
        raise BadInput(f"{name} has no rows")
    if num_data is not None and positive_int("num_data", num_data) > most:
        raise BadInput(f"num_data={num_data} is more than the {most} rows of the file: leave it out")
    return most if num_data is None else num_data


def _listed(vae: VAE) -> str:
    return ", ".join(map(str, vae.data_shape))
