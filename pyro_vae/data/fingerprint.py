"""Fingerprints of data sets, to check that a resumed or evaluated run has the held-out data it had before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.split import Split
from pyro_vae.errors import BadInput, datapoints

NUM_ROWS = 100
"""Number of datapoints compared in each held-out set; changed or reordered rows show among the first."""

TOLERANCE = 0.02
"""Tolerance relative to the spread of the numbers: image decoders and processors round differently."""


def fingerprint(data: Dataset) -> dict[str, Any]:
    """Summarize a data set: sizes of the splits, and a number and the y of the first held-out datapoints.

    Of training data as well, if no held-out data come from the same file.
    """
    splits = dict(data.held_out)
    if data.apart:
        splits["train"] = data.train.first(min(NUM_ROWS, len(data.train)))
    return {"sizes": data.sizes, **{name: _of(split) for name, split in splits.items()}}


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Describe what has changed between two fingerprints; None if nothing has.

    Raises:
        BadInput: if `before`, which comes from a file, is not a fingerprint.
    """
    if not _is_fingerprint(before):
        raise BadInput("the checkpoint was not written by pyro_vae: its data are not a fingerprint")
    return _difference(before, now)


def _is_fingerprint(value: Any) -> bool:
    """Whether `value` has the keys of a fingerprint and holds plain numbers."""

    def are(kind: type, values: Any) -> bool:
        return type(values) is list and len(values) <= NUM_ROWS and all(type(number) is kind for number in values)

    def is_of_split(split: Any) -> bool:
        if type(split) is not dict or split.keys() != {"x", "y"}:
            return False
        y = split["y"]
        return are(float, split["x"]) and (y is None or are(int, y) or are(float, y))

    sizes = value.get("sizes")
    are_sizes = type(sizes) is dict and sizes.keys() == set(SPLITS) and are(int, list(sizes.values()))
    return are_sizes and all(is_of_split(value.get(name)) for name in SPLITS if name != "train" or name in value)


def other_datapoints(name: str, n: int, before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Describe how the first n datapoints of a split differ between two fingerprints; None if they do not.

    Training sets count as the same if the other splits are, and as far as fingerprints hold them.

    Raises:
        BadInput: if one of them, which come from files, is not a fingerprint.
    """
    if not (_is_fingerprint(before) and _is_fingerprint(now)):
        raise BadInput("the checkpoint was not written by pyro_vae: its data are not a fingerprint")
    return _difference(before, now) if name == "train" else _other_x(name, before, now, n)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    for name, size in before["sizes"].items():
        if now["sizes"][name] != size:
            return f"{datapoints(size)} in split={name}, {now['sizes'][name]} now"
    for name in SPLITS:
        if name not in before or name not in now:  # training data
            continue
        if found := _other_x(name, before, now):
            return found
        if _other_y(before[name]["y"], now[name]["y"]):
            return f"other labels in split={name}"
    return None


def _other_x(name: str, before: dict[str, Any], now: dict[str, Any], n: int = NUM_ROWS) -> str | None:
    """Compare the first n datapoints of a held-out set, or as many as fingerprints hold."""
    x, other = (torch.tensor(one[name]["x"][:n], dtype=torch.float64) for one in (before, now))
    if len(x) != len(other):
        return f"other datapoints in split={name}"
    if len(x) and (x - other).abs().max() > TOLERANCE * (x - x.mean()).abs().max() + 1e-6 * x.abs().max():
        return f"other datapoints in split={name}, or the same in another order"
    return None


def _other_y(y: Any, other: Any) -> bool:
    """Whether labels differ, or numbers of covariates differ by more than rounding errors."""
    if y is None or other is None or len(y) != len(other):
        return bool(y != other)
    y, other = (torch.tensor(values, dtype=torch.float64) for values in (y, other))
    return not torch.allclose(y, other, rtol=1e-9, atol=1e-9)


def _of(split: Split) -> dict[str, list[float] | list[int] | None]:
    y = None if split.y is None else split.y[:NUM_ROWS]
    of_y = None if y is None else y.tolist() if y.ndim == 1 else _numbers(y)
    return {"x": _numbers(split.x[:NUM_ROWS]), "y": of_y}


def _numbers(rows: Tensor) -> list[float]:
    """Return a number for each of the rows `[n, ...]`."""
    values = rows.flatten(1).double().nan_to_num(0.0)
    weights = torch.linspace(
        0.5, 1.5, values.shape[1], dtype=values.dtype, device=values.device
    )  # columns have an order
    return (values * weights).mean(1).tolist()
