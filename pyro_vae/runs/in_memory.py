"""Data sets of arrays and data frames that `fit` is given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pyro_vae.data import Dataset, from_array, from_frame
from pyro_vae.data.covariates import in_x_or_apart
from pyro_vae.data.frames import is_frame, names_of
from pyro_vae.data.sources import Source, source_of
from pyro_vae.errors import BadInput
from pyro_vae.likelihoods import Table
from pyro_vae.runs.build import integers_of
from pyro_vae.runs.companions import is_given
from pyro_vae.runs.options import choice_and_settings

NOT_IN_MEMORY = ("_target_", "path", "key", "label_key", "separator", "columns", "y", "val_path", "test_path")
"""Keys of conf/data/array.yaml and table.yaml that are about a file, or set by the run."""


def is_table(x: Any, likelihood: Any, experiment: str | None, overrides: Sequence[str]) -> bool:
    """Whether x is a data frame to be described column by column: unless another likelihood is chosen."""
    if not is_frame(x) or "likelihood=table" in overrides:
        return is_frame(x)
    if likelihood is None:
        return experiment is None and not is_given(overrides, "likelihood")
    return choice_and_settings("likelihood", likelihood)[0] in ("table", Table)


def data_of(config: DictConfig, source: Source, validation_data: Any) -> Dataset:
    """Make the data set of a configuration from a source of data and labels, and validation data or None.

    Raises:
        BadInput: if they cannot be used.
    """
    content: Any = OmegaConf.to_container(config.data, resolve=True)
    settings = {key: value for key, value in content.items() if key not in NOT_IN_MEMORY}
    x, y, classes, _, features = source
    make: Any = from_frame
    if "kinds" not in settings:
        make = partial(from_array, integers=integers_of(config), features=features)
    if validation_data is None:
        return make(x, y=y, classes=classes, **settings)
    if settings["val_fraction"]:
        raise BadInput(f"data.val_fraction={settings['val_fraction']} and validation_data exclude each other")
    in_pair = isinstance(validation_data, (tuple, list)) and len(validation_data) == 2
    if in_pair and isinstance(validation_data, list):  # a list of two rows is an array
        in_pair = isinstance(validation_data[0], (np.ndarray, torch.Tensor))
    pair = tuple(validation_data) if in_pair else (validation_data, None)
    pair = in_x_or_apart(pair[0], pair[1], names_of(y) if is_frame(y) else ())
    other = source_of(*pair, "validation_data", classes, () if "kinds" in settings else features)
    labels = None if y is None and other.with_x else other.y
    return make(x, y=y, classes=classes, validation=(other.x, labels), **settings)
