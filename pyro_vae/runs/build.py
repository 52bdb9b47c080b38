"""Builds the objects that a configuration describes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import copy
from functools import partial
from inspect import isclass
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, open_dict

from pyro_vae.data import Dataset
from pyro_vae.data.schema import IGNORE, described, of_plain
from pyro_vae.data.vision import without_downloads
from pyro_vae.errors import BadInput, causes, in_callers_names, in_section
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments
from pyro_vae.likelihoods.scaled import Scaled
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import say
from pyro_vae.vae import VAE, SemiSupervisedVAE

log = logging.getLogger(__name__)

EXACT_EM = "pyro_vae.em.ExactEM"
"""A trainer whose closed form is that of one scale."""

STANDARDIZED = (
    "the columns have very different standard deviations: each is measured in its own (data.standardize=auto), and "
    "log p(x) stays in the units of the data"
)


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


def describe_data(config: DictConfig, data: Dataset) -> None:
    """Write the columns of a table, and whether to standardize, into a configuration for likelihood and checkpoints.

    Raises:
        BadInput: if the likelihood cannot standardize and the data set demands it, or a table has categories that the
            likelihood does not know of.
    """
    for section in (config.data, config.likelihood):
        if data.columns is not None and "columns" in section:
            section.columns = data.columns
    if "columns" not in config.likelihood:
        for column in data.columns or []:
            if column["kind"] == "categorical":
                raise BadInput(
                    f"column {column['name']} is categorical, and its codes are not numbers: use likelihood=table, or "
                    f"leave it out by data.kinds={{{column['name']}: {IGNORE}}}"
                )
    if data.covariates and "y" in config.data:  # a file to evaluate with has the columns that were given apart
        config.data.y = [column["name"] for column in data.covariates]
    if config.likelihood.get("standardize") is None and _standardizes(config, data):
        with open_dict(config.likelihood):
            config.likelihood.standardize = True


def tell_of_columns(config: DictConfig, data: Dataset) -> None:
    """Say which kinds of columns a table has, or that columns are standardized without having been asked to be."""
    if data.columns is not None:
        say(log, in_callers_names(described(of_plain(data.columns))))
    if data.standardize == "auto" and config.likelihood.get("standardize"):
        log.log(NOTE, in_callers_names(STANDARDIZED))


def _standardizes(config: DictConfig, data: Dataset) -> bool:
    """Whether the likelihood of a configuration is to measure each dimension of the data in its own scale.

    `auto` has no effect where a user's numbers are in the units of the data, or where the configuration is that of an
    earlier version.
    """
    section = config.likelihood
    if data.standardize is True and not _is_a(section, Scaled):
        raise BadInput(
            "data.standardize=true needs likelihood=gaussian or student_t: use one of them, or data.standardize=false"
        )
    if data.standardize != "auto":
        return data.standardize is True
    has_units = section.get("scale") == "per_pixel" or any(
        section.get(name) is not None for name in ("init_scale", "min_scale")
    )
    one_scale = "standardize" in section and not has_units and config.trainer._target_ != EXACT_EM
    return one_scale and len(data.data_shape) == 1 and moments(data.sample().x).unlike


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
    axes = ["prior", "likelihood", "guide", *(["missingness"] if config.get("missingness") is not None else [])]
    families = {axis: partial(instantiate, config, axis) for axis in axes}
    conditioning = config.get("conditioning", "none")
    network = instantiate(config, "network")
    kind = SemiSupervisedVAE if conditioning == "semi_supervised" else VAE
    return kind.build(
        data_shape, config.latent_dim, network, **families, conditioning=conditioning, num_classes=num_classes,
        missing=missing, covariates=of_plain(covariates or []),
    )  # fmt: skip


def integers_of(config: DictConfig) -> str:
    """Return what integers in arrays stand for, by the likelihood of a configuration (`Likelihood.integers`)."""
    section = config.likelihood
    integers: str = (get_object(section._target_) if _is_a(section, Likelihood) else Likelihood).integers
    return integers


def _is_a(section: DictConfig, kind: type) -> bool:
    """Whether a section of a configuration makes an object of a class."""
    target: Any = None
    with suppress(Exception):  # building the object will tell
        target = get_object(section._target_)
    return isclass(target) and issubclass(target, kind)


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
