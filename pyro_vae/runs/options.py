"""Options given as Python values, such as `guide=("low_rank", {"rank": 2})`, put into a configuration as values."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from pyro_vae.errors import BadInput, one_of, shown
from pyro_vae.programs import notes
from pyro_vae.runs.config import check_settings, compose, keys_of
from pyro_vae.runs.groups import CONFIG_DIR, options_of
from pyro_vae.runs.plain import not_plain

BUILT_BY_THE_CALLER = ("network", "objective")
"""Groups whose objects can be built without knowing the data."""


def configuration(
    options: Mapping[str, Any],
    values: Mapping[str, Any],
    experiment: str | None,
    overrides: Sequence[str],
    data: str = "array",
) -> DictConfig:
    """Compose the configuration of a run on an array or a data frame.

    Nothing that was left out (None) is set: then an experiment's own value holds, or that of conf/. Where an override
    sets the same key, the override holds.

    Args:
        options: for each group of conf/ a name, a name with settings, a class, a partial, an instance, or None.
        values: for each key, as in `trainer.max_epochs`, its value or None.
        experiment: name in conf/experiment.
        overrides: overrides of the command line.
        data: `array` or `table`.

    Raises:
        BadInput: if an option or a value cannot be used.
    """
    given = set(keys_of(overrides))
    values = {key: value for key, value in values.items() if value is not None}
    names: dict[str, str] = {}
    sections: dict[str, dict[str, Any]] = {}
    for group, option in options.items():
        if option is None:
            continue
        choice, settings = choice_and_settings(group, option)
        if isinstance(choice, str):
            names[group] = one_of(group, choice, tuple(options_of()[group]))
            values |= {f"{group}.{name}": value for name, value in settings.items()}
        elif own := [key for key in given if key.partition(".")[0] == group]:
            name = getattr(choice, "__name__", type(choice).__name__)
            raise BadInput(
                f"{group}={shown(name)} and the override {own[0]} cannot be combined: give settings with the class, "
                f"as in {group}=({shown(name)}, {{...}})"
            )
        else:
            sections[group] = {"_target_": target_of(group, choice), **_plain(group, settings)}
    if experiment is not None:
        one_of("experiment", experiment, tuple(options_of()["experiment"]))
    config = compose(
        [
            f"data={data}",
            "data.test_fraction=0",
            *([] if experiment is None else [f"+experiment={experiment}"]),
            *(f"{group}={name}" for group, name in names.items()),
            *overrides,
        ]
    )
    for group, section in sections.items():
        config[group] = section
    for group in names.keys() - {"conditioning", *given}:
        if config[group] is None:  # missingness=none
            continue
        _drop_foreign(config, group, names[group], given)
    if dropped := _drop_foreign(config, "data", data, given):
        foreign = ", ".join(f"data.{name}={value}" for name, value in dropped.items())
        notes.warn(f"fit uses x instead of the experiment's data set, and ignores its {foreign}")
    for key, value in values.items():
        if key not in given:
            _set(config, key, value)
    if "num_levels" in config.data and "data.num_levels" not in given:  # as many as the likelihood has
        config.data.num_levels = config.likelihood.get("num_levels") or config.data.num_levels
    check_settings(config)
    return config


def choice_and_settings(group: str, option: Any) -> tuple[Any, dict[str, Any]]:
    """Split an option into a name or class, and settings.

    Raises:
        BadInput: if it has none of the forms that `configuration` accepts.
    """
    choice: Any
    settings: dict[str, Any]
    if isinstance(option, (tuple, list)) and len(option) == 2 and isinstance(option[1], Mapping):
        choice, settings = option[0], dict(option[1])
    elif isinstance(option, Mapping) and "name" in option:
        settings = dict(option)
        choice = settings.pop("name")
    else:
        choice, settings = option, {}
    if isinstance(choice, partial):
        if choice.args:
            raise BadInput(f"{group}={shown(option)} has arguments by position: give them by name")
        choice, settings = choice.func, {**choice.keywords, **settings}
    if isinstance(choice, str) or inspect.isclass(choice) or inspect.isroutine(choice):
        return choice, settings
    if type(choice).__module__ == "builtins" or settings:
        one_of(group, choice, tuple(options_of()[group]))  # raises
    if group not in BUILT_BY_THE_CALLER:
        raise BadInput(
            f"{group}={shown(choice)} is an instance, but fit builds one for the shape of the data: give the class, or "
            f"({type(choice).__name__}, {{...}}) with its settings"
        )
    return type(choice), settings_of(group, choice)


def settings_of(group: str, instance: Any) -> dict[str, Any]:
    """Return the arguments that `instance` was built with, where they differ from the defaults.

    Raises:
        BadInput: if attributes of the same names do not hold them, so that checkpoints could not rebuild it.
    """
    kind = type(instance)
    try:
        parameters = inspect.signature(kind).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        held = {p.name: _unwrapped(getattr(instance, p.name)) for p in named}
        settings = {p.name: held[p.name] for p in named if held[p.name] != _unwrapped(p.default)}
        same = _state(kind(**settings)) == _state(instance)
    except (AttributeError, TypeError, ValueError):
        same = False
    if not same:
        raise BadInput(
            f"{group}={shown(instance)} has settings that cannot be read from its attributes: give "
            f"({kind.__name__}, {{...}}) with its settings"
        )
    return settings


def target_of(group: str, function: Any) -> str:
    """Return the name by which a run's configuration calls a class or function.

    Raises:
        BadInput: if it cannot be imported by its name.
    """
    module, name = function.__module__, function.__qualname__
    if module.startswith("pyro_vae."):
        room = ".".join(module.split(".")[:2])  # conf/ names the classes that the package exports
        if getattr(import_module(room), name, None) is function:
            return f"{room}.{name}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise BadInput(
            f"{group}={shown(function)} cannot be imported as {module}.{name}, the name that checkpoints keep: define "
            "it at the top level of a module or notebook"
        )
    return f"{module}.{name}"


def _state(instance: Any) -> dict[str, Any]:
    values = {name: _unwrapped(value) for name, value in vars(instance).items()}
    return {name: value for name, value in values.items() if not_plain(value) is None or isinstance(value, float)}


def _drop_foreign(config: DictConfig, group: str, option: str, given: set[str]) -> dict[str, Any]:
    """Remove an experiment's settings that `option` does not have; they were meant for another option."""
    known = OmegaConf.load(CONFIG_DIR / group / f"{option}.yaml")
    foreign = [name for name in config[group] if name not in known and f"{group}.{name}" not in given]
    with open_dict(config[group]):
        return {str(name): config[group].pop(name) for name in foreign}


def _set(config: DictConfig, key: str, value: object) -> None:
    group, _, name = key.rpartition(".")
    node = config[group] if group else config
    if name not in node or name.startswith("_"):
        known = ", ".join(str(other) for other in node if not str(other).startswith("_"))
        choices = f"choose one of {known}" if known else "it has no settings"
        raise BadInput(f"{key}={shown(value)} does not apply to {node._target_}: {choices}")
    node[name] = _plain(key, value)


def _plain(key: str, value: Any) -> Any:
    """Return `value` as plain containers and numbers.

    Raises:
        BadInput: if a checkpoint cannot hold it.
    """
    plain = _unwrapped(value)
    found = None if isinstance(plain, int) else not_plain(plain)  # the limits of integers are checked later
    if found is not None:
        place = ".".join(filter(None, (key, found[0])))
        raise BadInput(f"{place}={shown(value)} cannot be used: a checkpoint cannot keep {found[1]}")
    return plain


def _unwrapped(value: Any) -> Any:
    """Return NumPy's and torch's numbers and arrays, tuples and paths as Python's numbers, lists and strings."""
    if isinstance(value, Mapping):
        return {name: _unwrapped(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unwrapped(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(type(value), "tolist") else value
