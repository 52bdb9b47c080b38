"""The options that a search may choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pyro_vae.errors import BadInput, meant, one_of
from pyro_vae.runs.config import compose, keys_of
from pyro_vae.runs.groups import options_of

RANGE = {"low", "high", "log", "step"}


def leaves(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the searched keys with their choices or ranges.

    Raises:
        BadInput: if a key has neither.
    """
    for name, values in space.items():
        key = f"{prefix}{name}"
        if isinstance(values, Mapping) and not values.keys() & RANGE:
            yield from leaves(values, f"{key}.")
            continue
        is_range = isinstance(values, Mapping) and {"low", "high"} <= values.keys() <= RANGE
        if not is_range and not (isinstance(values, list) and values):
            raise BadInput(f"space.{key}={values} must be [choices] or {{low: 1, high: 9, log: false, step: 1}}")
        yield key, values


def suggest(trial: Any, key: str, values: Any) -> Any:
    """Let Optuna suggest a value of `key`.

    Raises:
        BadInput: if Optuna rejects the range or the choices.
    """
    try:
        if isinstance(values, list):
            return trial.suggest_categorical(key, [_choice(value) for value in values])
        whole = isinstance(values["low"], int) and isinstance(values["high"], int)
        extra = {name: value for name, value in values.items() if name in ("log", "step")}
        return (trial.suggest_int if whole else trial.suggest_float)(key, values["low"], values["high"], **extra)
    except (TypeError, ValueError) as error:
        raise BadInput(f"space.{key}={values}: {error}") from error


def require_options(overrides: Sequence[str], space: Mapping[str, Any], own: Sequence[str]) -> None:
    """Check the options of the runs, before the first one: trials may fail for other reasons, and the search goes on.

    Args:
        overrides: those of all runs.
        space: the searched keys with their choices or ranges.
        own: keys of the search itself, for suggestions.

    Raises:
        BadInput: if a run cannot have one of them.
    """
    for key in keys_of(overrides):
        if key == "resume":
            raise BadInput("resume: a search starts new runs, leave it out")
    for key, values in space.items():
        if key in options_of() and isinstance(values, list):
            for name in values:
                one_of(f"space.{key}", name, tuple(options_of()[key]))
    try:
        compose(overrides)
    except BadInput as error:
        key = str(error).partition(" is not a key")[0]
        if suggestion := meant(key, own):
            raise BadInput(f"{key} is not a key of the configuration{suggestion}: see --help") from error
        raise
    ends = {key: v if isinstance(v, list) else [v["low"], v["high"]] for key, v in space.items()}
    first, last = ([f"{key}={_choice(values[i])}" for key, values in ends.items()] for i in (0, -1))
    try:
        compose([*overrides, *first])
    except BadInput:
        with suppress(BadInput):  # the first choices may not go together
            compose([*overrides, *last])
            return
        raise


def _choice(value: Any) -> Any:
    """Convert a choice to what Optuna can store and Hydra can read."""
    return value if isinstance(value, (int, float)) else "null" if value is None else str(value)
