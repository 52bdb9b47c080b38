"""Options that go together: the fewest changes that turn options which do not into a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product

import pyro
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from pyro_vae.build import build_vae
from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput, Incompatible, NoEvidence
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.runs.config import compose

STAGES: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "conditioning": ("none",),
        "prior": ("categorical", "standard_normal", "class_conditional"),
        "guide": ("categorical", "diagonal"),
    },
    {"objective": ("score_function", "trace_elbo")},
    {"estimator": ("importance",)},
)
"""Options that fit where others do not: those of the model first, then those that a given model needs."""

GIVEN = 100
"""Cost of changing an option that the user has given; that of a default is 1."""


@contextmanager
def completed(overrides: Sequence[str], data: Dataset) -> Iterator[None]:
    """Within, an error about incompatible options suggests a whole command that works.

    Args:
        overrides: of `python -m pyro_vae.train`.
        data: its data.
    """
    try:
        yield
    except Incompatible as error:
        resumes = any(_sets(override, "resume") for override in overrides)
        working = None if resumes else working_overrides(overrides, data)
        if working is None:
            raise
        raise BadInput(f"{error.reason}; this works: python -m pyro_vae.train {shlex.join(working)}") from error


def working_overrides(overrides: Sequence[str], data: Dataset) -> list[str] | None:
    """Return overrides that can be trained and evaluated, with few changes and preferably of defaults; None: none.

    Args:
        overrides: that compose, but do not go together.
        data: of the run.
    """
    working = list(overrides)
    for n, alternatives in enumerate(STAGES):
        for changes in _by_cost(alternatives, working):
            changed = _change(working, changes)
            if _passes(changed, data, n):
                working = changed
                break
        else:
            return None
    return working


def _by_cost(alternatives: Mapping[str, Sequence[str]], overrides: Sequence[str]) -> list[dict[str, str]]:
    """Return all sets of changes, the cheapest first."""
    latent_dim = compose(overrides).latent_dim
    if "guide" in alternatives and not isinstance(latent_dim, int):
        alternatives = {**alternatives, "latent_dim": (str(latent_dim[0]),)}
    given = {key for key in alternatives if any(_sets(override, key) for override in overrides)}
    values = product(*((None, *options) for options in alternatives.values()))
    changes = [{key: option for key, option in zip(alternatives, some, strict=True) if option} for some in values]
    return sorted(changes, key=lambda change: sum(GIVEN if key in given else 1 for key in change))


def _change(overrides: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    kept = [override for override in overrides if not any(_sets(override, key) for key in changes)]
    return [*kept, *(f"{key}={value}" for key, value in changes.items())]


def _sets(override: str, key: str) -> bool:
    """Whether an override chooses an axis, or sets one of its options."""
    name = override.partition("=")[0].lstrip("+~")
    return name == key or name.startswith(f"{key}.")


def _passes(overrides: Sequence[str], data: Dataset, stage: int) -> bool:
    """Whether a run with these overrides would pass the checks before its work, up to a stage."""
    x, y = data.batch(torch.arange(min(2, len(data.train))))
    try:
        config = compose(overrides)
        with pyro.get_param_store().scope(), fork_rng(x), pyro.validation_enabled(False):
            vae = build_vae(config, data.data_shape, data.num_classes).to(x.device)
            with eval_mode(vae):
                if stage >= 1:
                    instantiate(config.trainer).check(vae, instantiate(config.objective), x, y)
                if stage >= 2:
                    with suppress(NoEvidence):
                        instantiate(config.estimator).check(vae.model, vae.guide, x, y)
    except (BadInput, HydraException, OmegaConfBaseException):
        return False
    return True
