"""Builds the objects that a configuration describes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import copy
from functools import partial
from inspect import isclass
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig

from pyro_vae.data import Dataset
from pyro_vae.data.schema import of_plain
from pyro_vae.data.vision import without_downloads
from pyro_vae.errors import BadInput, causes, in_section
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.vae import VAE, SemiSupervisedVAE


def instantiate(config: DictConfig, group: str, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a section of a configuration with Hydra.

    Args:
        config: the whole configuration.
        group: the section.
        *args: more arguments of its `_target_`.
        **kwargs: more keyword arguments of its `_target_`, or options of Hydra.

    Raises:
        BadInput: if a setting is rejected, named by its key, as in `guide.rank=0`.
    """
    section = config[group]
    with in_section(group, section):
        try:
            return hydra.utils.instantiate(section, *args, **kwargs)
        except InstantiationException as error:
            for cause in causes(error):
                if isinstance(cause, BadInput):
                    raise copy(cause) from error
            raise


def describe_table(config: DictConfig, data: Dataset) -> None:
    """Write the columns of a table into a configuration, for the likelihood and for checkpoints."""
    for section in (config.data, config.likelihood):
        if data.columns is not None and "columns" in section:
            section.columns = data.columns
    if data.covariates and "y" in config.data:  # a file to evaluate with has the columns that were given apart
        config.data.y = [column["name"] for column in data.covariates]


def build_vae(
    config: DictConfig,
    data_shape: Sequence[int],
    num_classes: int | None = None,
    missing: bool = False,
    covariates: Sequence[dict[str, Any]] | None = None,
) -> VAE:
    """Build the VAE of a configuration.

    Args:
        config: the whole configuration.
        data_shape: shape of one datapoint.
        num_classes: number of classes; None without labels.
        missing: whether entries of the data may be missing.
        covariates: columns of y as plain data, if the data have covariates.

    Raises:
        BadInput: if an option is out of range or does not fit the data.
    """
    families = {axis: partial(instantiate, config, axis) for axis in ("prior", "likelihood", "guide")}
    conditioning = config.get("conditioning", "none")
    network = instantiate(config, "network")
    kind = SemiSupervisedVAE if conditioning == "semi_supervised" else VAE
    return kind.build(
        data_shape, config.latent_dim, network, **families, conditioning=conditioning, num_classes=num_classes,
        missing=missing, covariates=of_plain(covariates or []),
    )  # fmt: skip


def integers_of(config: DictConfig) -> str:
    """Return what integers in arrays stand for, by the likelihood of a configuration (`Likelihood.integers`)."""
    likelihood: Any = None
    with suppress(Exception):  # building the likelihood will tell
        likelihood = get_object(config.likelihood._target_)
    return likelihood.integers if isclass(likelihood) and issubclass(likelihood, Likelihood) else Likelihood.integers


def build_data(config: DictConfig, may_download: bool = True) -> Dataset:
    """Load the data set of a configuration.

    Args:
        config: the whole configuration.
        may_download: whether missing data may be downloaded; False for configurations from files.

    Raises:
        BadInput: if the data are missing or cannot be used.
    """
    with nullcontext() if may_download else without_downloads():
        of_arrays = {"integers": integers_of(config)} if config.data._target_ == "pyro_vae.data.array" else {}
        data: Dataset = instantiate(config, "data", **of_arrays)
    return data
