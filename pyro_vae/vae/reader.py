"""What users give to a VAE's methods, as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.covariates import in_x_or_apart
from pyro_vae.data.frames import is_frame
from pyro_vae.data.labels import are_names, numbered
from pyro_vae.data.schema import modelled
from pyro_vae.data.sources import has_columns, names_a_column, source_of
from pyro_vae.data.sparse import SparseRows, is_sparse
from pyro_vae.errors import BadInput
from pyro_vae.programs.chunks import require_room
from pyro_vae.vae.abstract import Programs
from pyro_vae.vae.context import ClassLabels, Covariates
from pyro_vae.vae.inputs import Labels, as_data


class Reader(Programs):
    """Reads users' data and labels for the methods of a VAE."""

    classes: Sequence[str] = ()
    """Names of the classes in the order of their labels, if the training data's labels had any."""

    features: Sequence[str] = ()
    """Names of the columns of x `[N, P]`, if x is not a table and the training data's columns had names."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of x `[N, P]`, in the order of its tensors; [] if they have no names."""
        return [column.name for column in modelled(self.likelihood.columns)] or list(self.features)

    def _source(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the array x and the labels or covariates y in both (`source_of`); those in x only if they matter."""
        if isinstance(self.context, Covariates) and is_frame(x):
            x, y = in_x_or_apart(x, y, self.context.names)
            return source_of(x, features=self.features).x, y
        if isinstance(y, str) and not names_a_column(x, y) and (y in self.classes or not has_columns(x)):
            return source_of(x, features=self.features).x, y
        source = source_of(x, y, classes=self.classes, features=self.features)
        return source.x, None if source.with_x and not self.needs_labels else source.y

    def _parts(self, x: Any, y: Any, needed: bool) -> Iterator[tuple[Tensor, Tensor | None, str | None]]:
        """Yield data, labels if they are `needed`, and a warning: of all rows at once, or of a sparse x in chunks."""
        x, y = self._source(x, y)
        if not is_sparse(x):
            data, warning = self._data(x)
            yield data, self._labels(y, len(data), needed), warning
            return
        rows = SparseRows(x, "x", self.likelihood.units)
        labels, start = self._labels(y, len(rows), needed), 0
        for part in rows.chunks(np.float64 if self._like.dtype == torch.float64 else np.float32):
            data, warning = self._data(part)
            yield data, None if labels is None else labels[start : start + len(data)], warning
            start += len(data)

    def _dense(self, x: Any) -> Any:
        """Return a sparse matrix as an array, and anything else as it is."""
        if not is_sparse(x):
            return x
        require_room(math.prod(x.shape), self._like, f"x {list(x.shape)} takes")
        return x.toarray()

    def _data(self, x: Any) -> tuple[Tensor, str | None]:
        """Return x as data `[N, *data_shape]` in the likelihood's support, and a warning about its log p(x)."""
        likelihood = self.likelihood
        x = as_data(
            x, self.data_shape, self._like, nan=self.missing, columns=likelihood.columns, units=likelihood.units
        )
        return x, likelihood.check_observed(x)

    def _labels(self, y: Labels, n: int, needed: bool) -> Tensor | None:
        """Return y as labels `[n]` or covariates `[n, M]`; None if it is not given and not `needed`."""
        if y is None and not needed:
            return None
        if self.context is None:
            raise BadInput(
                "y is given, but this VAE does not depend on labels: leave it out, or train with conditioning=prior"
            )
        if isinstance(self.context, ClassLabels) and isinstance(y, str):
            y = numbered([y], self.classes)[0][0]
        elif isinstance(self.context, ClassLabels) and are_names(y):
            y, _ = numbered(y, self.classes)
        return self.context.read(y, n, self._like)
