"""Checks that the data suit the model, before any training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.data import Dataset, Split, Stored
from pyro_vae.errors import in_callers_names
from pyro_vae.programs.progress import progress
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def warn_of_misfit(vae: VAE, splits: Sequence[Split]) -> None:
    """Warn if log p(x) of these data under this likelihood is misleading.

    Raises:
        BadInput: if the likelihood rejects the data.
    """
    for warning in dict.fromkeys(vae.likelihood.check_observed(split.x) for split in splits):
        if warning:
            log.warning(in_callers_names(warning))


def warn_of_scales(vae: VAE, x: Tensor) -> None:
    """Warn if the scale of the likelihood is far from that of training data x `[N, *data_shape]`."""
    if warning := vae.likelihood.warning_of_scales(x):
        log.warning(in_callers_names(warning))


def warn_of_empty_rows(vae: VAE, data: Dataset) -> None:
    """Warn if training datapoints in memory have no observed entry: their log p(x) is 0, whatever the model.

    A model of missingness learns from them, too: that all entries are missing is observed.
    """
    if vae.missingness is not None or not data.missing or isinstance(data.train, Stored):
        return
    if count := int(data.train.x.isnan().flatten(1).all(1).sum()):
        log.warning(
            "%d of the %d training datapoints have no observed entry, and the model learns nothing from them: leave "
            "them out",
            count, len(data.train),
        )  # fmt: skip


def warn_of_empty_classes(vae: VAE, y: Tensor | None) -> None:
    """Warn if a conditional model has classes without training labels y `[N]`."""
    if vae.num_classes is not None and y is not None:
        empty = (torch.bincount(y[y >= 0], minlength=vae.num_classes) == 0).nonzero().flatten().tolist()
        if empty:
            log.warning(
                "%d of the %d classes, the first of them class %d, have no training data, and the model "
                "learns nothing about them: number the labels 0, 1, 2, ...",
                len(empty), vae.num_classes, empty[0],
            )  # fmt: skip


def read_through(train: Stored, data: Dataset, vae: VAE) -> None:
    """Read all training data from disk once, so that bad values are found now and not in the middle of training.

    Raises:
        BadInput: if a file is damaged, or the data's binarization or the likelihood rejects its values.
    """
    with progress("reading data", len(train), "datapoint") as tick:
        for x in train.in_order():
            data.require(x)
            if data.binarize == "none" and not data.dequantize:  # otherwise the model sees other values
                vae.likelihood.check_observed(x)
            tick(len(x))
