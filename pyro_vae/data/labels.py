"""Labels of which some are missing, which are −1."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.errors import BadInput, positive_int


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
