"""Labels: names of classes, and labels of which some are missing, which are −1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.frames import is_frame
from pyro_vae.errors import BadInput, positive_int, shown


def are_names(y: Any) -> bool:
    """Return whether y `[N]` is a list, array or data frame's column of names, some of which may be missing."""
    cells = _cells(y)
    return any(isinstance(cell, str) for cell in cells) and all(isinstance(c, str) or _missing(c) for c in cells)


def numbered(y: Any, classes: Sequence[str] | None = None, name: str = "y") -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of names y `[N]`, −1 where they are missing, and the names of all classes.

    Args:
        y: for which `are_names` is true.
        classes: the names that a model knows; None: those in y, sorted, or in the order of a categorical column.
        name: of y in messages.

    Raises:
        BadInput: if y holds a name that is not known.

    Example:
        >>> numbered(["cat", "dog", None, "cat"])
        (array([ 0,  1, -1,  0]), ('cat', 'dog'))
    """
    cells = _cells(y)
    found = {cell for cell in cells if isinstance(cell, str)}
    if classes is None:
        ordered = getattr(getattr(y, "cat", y), "categories", sorted(found))
        classes = [str(category) for category in ordered if category in found]
    known = {category: i for i, category in enumerate(classes)}
    if (unknown := sorted(found - known.keys())) and classes:
        raise BadInput(f"{name} holds {shown(unknown[0])}, which is not one of the classes {', '.join(classes[:20])}")
    if unknown:
        raise BadInput(f"{name} holds {shown(unknown[0])}, but the classes have no names: give labels 0, 1, 2, …")
    return np.array([known.get(cell, -1) for cell in cells], dtype=np.int64), tuple(classes)


def _cells(y: Any) -> list[Any]:
    """Return y as a list, or [] if it cannot hold names."""
    if isinstance(y, (list, tuple)):
        return list(y)
    if isinstance(y, Tensor) or is_frame(y) or not hasattr(type(y), "__array__"):
        return []
    masked: Any = y if isinstance(y, np.ma.MaskedArray) else None
    values = np.asarray(y) if masked is None else masked.astype(object).filled(np.nan)
    return values.tolist() if values.ndim == 1 and values.dtype.kind in "OUT" else []


def _missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN, or what a data frame has instead."""
    is_float = isinstance(cell, (float, np.floating))
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (is_float and bool(np.isnan(cell)))


def keep_labels(y: Tensor | None, num_labels: int, seed: int) -> Tensor:
    """Keep `num_labels` of the labels y `[N]`, equally many of each class (± 1); the others become −1.

    Args:
        y: labels, −1 where missing.
        num_labels: number of labels to keep.
        seed: of the random choice.

    Raises:
        BadInput: if all labels are missing, a class has too few, or fewer are to be kept than there are classes.
    """
    positive_int("num_labels", num_labels)
    classes = torch.empty(0) if y is None else y[y >= 0].unique()
    if y is None or not len(classes):
        raise BadInput(f"num_labels={num_labels} needs labels, which these data do not have")
    if num_labels < len(classes):
        raise BadInput(f"num_labels={num_labels} leaves some of {len(classes)} classes without a label: keep more")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    kept = torch.full_like(y, -1)
    for i, label in enumerate(classes):
        wanted = num_labels // len(classes) + (i < num_labels % len(classes))
        chosen = order[y[order] == label][:wanted]
        if len(chosen) < wanted:
            raise BadInput(
                f"num_labels={num_labels} needs {wanted} labels of class {label}, of which {len(chosen)} exist"
            )
        kept[chosen] = label
    return kept
