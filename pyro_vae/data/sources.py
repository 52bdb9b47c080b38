"""Whatever users have as data, as arrays x and labels y: PyTorch's data sets, AnnData, and arrays themselves.

Nothing is imported that the caller has not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from pyro_vae.data.covariates import split_off
from pyro_vae.data.frames import is_frame, names_of, selected
from pyro_vae.data.labels import are_names, numbered
from pyro_vae.errors import BadInput, one_line, shown
from pyro_vae.errors.memory import require_memory

Data = Any
"""An array or tensor `[N, ...]`, lists, a data frame, a map-style `Dataset`, a sparse matrix of SciPy, or AnnData."""


class Source(NamedTuple):
    """Data as arrays.

    Attributes:
        x: array `[N, ...]`, or anything else that is not known here.
        y: labels `[N]`, covariates (an array `[N, M]` or a data frame), or None.
        classes: name of each class, where labels have names, or ().
        with_x: whether the labels came with x, as in a data set of pairs, and may be left unused.
        features: names of the columns of x, if it is a data frame or AnnData in which they have distinct names, or ().
    """

    x: Any
    y: Any = None
    classes: tuple[str, ...] = ()
    with_x: bool = False
    features: tuple[str, ...] = ()


def source_of(
    x: Any, y: Any = None, name: str = "x", classes: Sequence[str] | None = None, features: Sequence[str] = ()
) -> Source:
    """Return x and y as arrays.

    Args:
        x: a map-style data set of tensors or of pairs (tensor, label), which is read into memory; an AnnData object,
            whose matrix X is x, sparse or not; everything else stays as it is.
        y: labels or covariates; names of classes become labels 0, 1, 2, … (`numbered`). For AnnData also the name of a
            column of `obs`, whose categories are classes; for a data frame names of its columns, which are split off.
        name: name of x in messages.
        classes: the names of the classes that a model knows, () if they have none; None: learn them from y.
        features: the names of the columns that a model knows: those of x, if it has any, are put into this order.

    Raises:
        BadInput: if x is a data set whose datapoints are not tensors, a DataLoader, or AnnData that is not in memory,
            or y does not name a column, or it holds other classes than those known, or x has other columns.

    Example:
        >>> source = source_of(TensorDataset(torch.zeros(5, 3), torch.tensor([0, 1, 0, 1, 1])))
        >>> source.x.shape, source.y.tolist(), source.with_x
        (torch.Size([5, 3]), [0, 1, 0, 1, 1], True)
    """
    source = _source_of(x, y, name, classes)
    own = _names_in(x) if _is_anndata(x) else _texts(names_of(source.x)) if is_frame(source.x) else ()
    if not own or not features:
        return source._replace(features=own)
    return Source(in_order(source.x, own, features, name), *source[1:4], tuple(features))


def in_order(x: Any, own: Sequence[str], features: Sequence[str], name: str) -> Any:
    """Return a matrix or data frame x, whose columns are named `own`, with the columns `features` in their order.

    Raises:
        BadInput: if it has other columns.
    """
    if list(own) == list(features):
        return x
    place, known = {column: i for i, column in enumerate(own)}, set(features)
    if lacking := [column for column in features if column not in place]:
        listed = ", ".join(map(shown, features[:10])) + (", …" if len(features) > 10 else "")
        raise BadInput(f"{name} lacks the column {shown(lacking[0])}: the model has columns {listed}")
    if unknown := [column for column in own if column not in known]:
        raise BadInput(f"{name} has a column {shown(unknown[0])}, which the training data did not have: drop it")
    return selected(x, features) if is_frame(x) else x[:, [place[column] for column in features]]


def _names_in(adata: Any) -> tuple[str, ...]:
    """Return the names of variables, without those that AnnData makes up: 0, 1, 2, …"""
    names = _texts(getattr(adata, "var_names", ()))
    return () if names == tuple(map(str, range(len(names)))) else names


def _texts(names: Sequence[Any]) -> tuple[str, ...]:
    """Return names, or () if they are not distinct texts."""
    are_texts = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return tuple(map(str, names)) if are_texts else ()


def _source_of(x: Any, y: Any, name: str, classes: Sequence[str] | None) -> Source:
    if _is_anndata(x):
        name_of_y = f"y={shown(y)}" if isinstance(y, str) else "y"
        return _numbered(*_of_anndata(x, y, name, classes), classes, name_of_y)
    if is_frame(x) and (columns := _columns(x, y)):
        return Source(*split_off(x, columns, name))
    if isinstance(y, str) and not is_frame(x):
        raise BadInput(
            f"y={shown(y)} names a column of obs, but {name} has type {type(x).__name__}, not AnnData or a data frame"
        )
    if isinstance(x, (Dataset, DataLoader)):
        x, labels = _of_dataset(x, name)
        if labels is not None and y is None:
            return Source(x, labels, with_x=True)
    return _numbered(x, y, classes, "y")


def names_a_column(x: Any, y: str) -> bool:
    """Return whether y is the name of a column of x, if x is a data frame, or of `x.obs`, if x is AnnData."""
    return (is_frame(x) and y in names_of(x)) or (_is_anndata(x) and y in x.obs.columns)


def has_columns(x: Any) -> bool:
    """Return whether x is a data frame or AnnData, so that y may name a column."""
    return is_frame(x) or _is_anndata(x)


def _columns(frame: Any, y: Any) -> list[str]:
    """Return y as names of columns of a data frame, or [] if it must be something else, such as names of classes."""
    names = [y] if isinstance(y, str) else y
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return []
    one_a_row = len(names) == len(frame) and not isinstance(y, str)
    are_columns = len(set(names)) == len(names) and set(names) <= set(names_of(frame))
    return list(names) if are_columns or not one_a_row else []


def _numbered(x: Any, y: Any, classes: Sequence[str] | None, name: str) -> Source:
    """Return x with y, whose names become labels, unless the classes have no names."""
    if (classes is not None and not classes) or not are_names(y):
        return Source(x, y)
    return Source(x, *numbered(y, classes, name))


def _of_dataset(dataset: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the tensor `[N, ...]` of a data set's datapoints, and their labels `[N]`, if it returns pairs."""
    kind = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise BadInput(f"{name} has type {kind}: give its data set, loader.dataset")
    if isinstance(dataset, TensorDataset):
        if len(dataset.tensors) > 2:
            raise BadInput(
                f"{name} has type {kind} with {len(dataset.tensors)} tensors: give TensorDataset(x) or "
                "TensorDataset(x, y)"
            )
        return dataset.tensors[0], dataset.tensors[1] if len(dataset.tensors) == 2 else None
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, TensorDataset):
        index = torch.as_tensor(dataset.indices, dtype=torch.long)
        data, labels = _of_dataset(dataset.dataset, name)
        return data[index], None if labels is None else labels[index]
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise BadInput(
            f"{name} has type {kind}, which is iterable, not map-style: give torch.stack(list({name})), or a Dataset "
            "with __getitem__ and __len__"
        )
    if not len(dataset):
        raise BadInput(f"{name} is empty: its data set of type {kind} has no datapoints")
    first = _item(dataset, 0, name)
    data_shape, with_label = first[0].shape, first[1] is not None
    num_bytes = len(dataset) * first[0].nbytes
    require_memory(num_bytes, f"{name} takes", "save it as a .npy file, which is streamed from disk", copies=2)
    data = torch.empty(len(dataset), *data_shape, dtype=first[0].dtype)
    all_labels = []
    for i in range(len(dataset)):
        row, label = first if i == 0 else _item(dataset, i, name)
        if row.shape != data_shape or row.dtype != data.dtype or (label is not None) != with_label:
            raise BadInput(
                f"{name}[{i}] is {_described(row, label)}, and {name}[0] is {_described(*first)}: datapoints must be "
                "alike"
            )
        data[i] = row
        all_labels.append(label)
    if not with_label:
        return data, None
    return data, torch.as_tensor(all_labels)


def _item(dataset: Any, i: int, name: str) -> tuple[Tensor, int | float | None]:
    """Return a datapoint as a tensor, and its label or None."""
    kind = type(dataset).__name__
    try:
        item = dataset[i]
    except Exception as error:  # the data set's own code
        raise BadInput(f"{name}[{i}] of type {kind} cannot be read ({one_line(error)})") from error
    pair = item if isinstance(item, (tuple, list)) else (item,)
    row, *labels = pair if pair else (None,)
    if isinstance(row, np.ndarray) and row.dtype.kind in "biuf":
        row = torch.from_numpy(np.ascontiguousarray(row))
    if not isinstance(row, Tensor) or len(labels) > 1:
        raise BadInput(f"{name} has type {kind}, whose datapoints are {_kind_of(item)}: {_remedy(item, row, name)}")
    label = labels[0] if labels else None
    if label is None:
        return row.detach(), None
    if isinstance(label, (Tensor, np.ndarray, np.generic)) and np.ndim(label) == 0:
        label = label.item()
    if not isinstance(label, (int, float)):
        raise BadInput(f"{name} has type {kind}, whose labels are {_kind_of(label)}: give integers 0, 1, 2, …")
    return row.detach(), label


def _kind_of(item: Any) -> str:
    """Describe the type of an item in words."""
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item[:4]) or 'nothing'}"
    return f"of type {type(item).__name__}"


def _remedy(item: Any, row: Any, name: str) -> str:
    if isinstance(item, dict):
        keys = ", ".join(shown(key) for key in list(item)[:5])
        return f"give one of their entries ({keys}), as in torch.stack([item[KEY] for item in {name}])"
    if type(row).__module__.partition(".")[0] == "PIL":
        return "give it transform=torchvision.transforms.ToTensor()"
    return "return a tensor, or a pair of a tensor and a label"


def _described(row: Tensor, label: Any) -> str:
    return f"{'a tensor' if label is None else 'a labelled tensor'} {list(row.shape)} of {row.dtype}"


def _is_anndata(x: Any) -> bool:
    return type(x).__name__ == "AnnData" and type(x).__module__.partition(".")[0] == "anndata"


def _of_anndata(adata: Any, y: Any, name: str, classes: Sequence[str] | None) -> tuple[Any, Any]:
    """Return the matrix of an AnnData object, and y or the column of obs that it names.

    Its categories become names of classes, unless the classes have none.
    """
    if adata.isbacked:
        raise BadInput(f"{name} is AnnData in backed mode, which stays on disk: give {name}.to_memory()")
    if adata.X is None:
        raise BadInput(f"{name} is AnnData without a matrix X: give one of its layers, {name}.layers[NAME]")
    if not isinstance(y, str):
        return adata.X, y
    if y not in adata.obs.columns:
        known = ", ".join(map(str, adata.obs.columns[:20])) or "none"
        raise BadInput(f"y={shown(y)} is not a column of {name}.obs: choose one of {known}")
    column = adata.obs[y]
    if classes is not None and not classes:
        return adata.X, column
    column = column.astype("category")
    names = [*map(str, column.cat.categories)]
    if len(set(names)) < len(names):
        raise BadInput(f"y={shown(y)} has categories that differ only in their types: convert {name}.obs[{y!r}] to str")
    return adata.X, column.cat.rename_categories(names)
