"""Options that go together: few changes that turn options which do not into a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product

import pyro
from omegaconf import DictConfig

from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput, Incompatible
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.runs.build import build_vae, describe_data, instantiate
from pyro_vae.runs.checks import check_parts
from pyro_vae.runs.config import compose, keys_of

STAGES: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "conditioning": ("none",),
        "prior": ("categorical", "standard_normal", "class_conditional"),
        "guide": ("categorical", "diagonal"),
    },
    {"objective": ("semi_supervised", "score_function", "trace_elbo")},
    {"estimator": ("auto",)},
)
"""Options that fit where others do not: first those of the model, then those that a given model needs."""

AXES = ("latent_dim", *(axis for stage in STAGES for axis in stage))

GIVEN = 100
"""Cost of changing an option that the user has given; that of a default is 1."""

Changes = Mapping[str, str]
"""Axis -> another option."""


@contextmanager
def completed(
    data: Dataset,
    given: Collection[str],
    config_of: Callable[[Changes], DictConfig],
    call: Callable[[Changes], str],
    num_stages: int = len(STAGES),
) -> Iterator[None]:
    """Let an error about incompatible options suggest a whole call that works.

    Args:
        data: of the run.
        given: axes that the user has given options of, which are kept where possible.
        config_of: the configuration after changes.
        call: how to write the call after changes.
        num_stages: of `STAGES` that the run has.
    """
    try:
        yield
    except Incompatible as error:
        changes = companions(data, given, config_of, num_stages)
        if changes is None:
            raise
        replaced = " and ".join(axis for axis in changes if axis in given)
        how = f"this works, with another {replaced}" if replaced else "this works"
        raise BadInput(f"{error.reason}; {how}: {call(changes)}") from error


@contextmanager
def completed_command(overrides: Sequence[str], of_hydra: Sequence[str], data: Dataset) -> Iterator[None]:
    """`completed`, for `python -m pyro_vae.train OVERRIDES`, whose overrides of Hydra itself are `of_hydra`."""
    place = [override for override in of_hydra if not override.startswith("hydra.mode=")]  # added by Hydra
    with completed(
        data,
        [axis for axis in AXES if is_given(overrides, axis)],
        lambda changes: compose(_changed(overrides, changes)),
        lambda changes: f"python -m pyro_vae.train {shlex.join([*_changed(overrides, changes), *place])}",
    ):
        yield


def companions(
    data: Dataset, given: Collection[str], config_of: Callable[[Changes], DictConfig], num_stages: int
) -> dict[str, str] | None:
    """Find few changes, preferably of defaults, after which the run passes all checks; None if there are none.

    Arguments are those of `completed`.
    """
    found: dict[str, str] = {}
    latent_dim = config_of(found).latent_dim
    for n, axes in enumerate(STAGES[:num_stages]):
        if n == 0 and not isinstance(latent_dim, int):
            axes = {**axes, "latent_dim": (str(latent_dim[0]),)}
        for changes in _by_cost(axes, given):
            if _passes({**found, **changes}, data, config_of, n):
                found |= changes
                break
        else:
            return None
    return found


def _by_cost(axes: Mapping[str, Sequence[str]], given: Collection[str]) -> list[dict[str, str]]:
    """Return all sets of changes, the cheapest first."""
    values = product(*((None, *options) for options in axes.values()))
    changes = [{axis: option for axis, option in zip(axes, some, strict=True) if option} for some in values]
    return sorted(changes, key=lambda change: sum(GIVEN if axis in given else 1 for axis in change))


def _passes(changes: Changes, data: Dataset, config_of: Callable[[Changes], DictConfig], stage: int) -> bool:
    """Return whether the run would pass the checks before training, up to a stage."""
    try:
        config = config_of(changes)
        describe_data(config, data)
        with fork_rng(data.val.x), pyro.validation_enabled(False):
            vae = build_vae(config, data.data_shape, data.num_classes, data.missing, data.covariates).to(data.device)
            if stage >= 1:
                trainer, objective = instantiate(config, "trainer"), instantiate(config, "objective")
                estimator = instantiate(config, "estimator") if stage >= 2 else None
                check_parts(config, vae, data, trainer, objective, estimator)
    except Exception:  # for any reason, these changes do not work
        return False
    return True


def _changed(overrides: Sequence[str], changes: Changes) -> list[str]:
    kept = [override for override in overrides if not any(is_given([override], axis) for axis in changes)]
    return [*kept, *(f"{axis}={option}" for axis, option in changes.items())]


def is_given(overrides: Sequence[str], axis: str) -> bool:
    """Return whether one of the overrides chooses an axis, or sets one of its options."""
    return any(key == axis or key.startswith(f"{axis}.") for key in keys_of(overrides))
