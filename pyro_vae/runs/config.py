"""Composes configurations from conf/, checks them, and explains their errors in one line. Imports no torch."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pyro_vae.errors import BadInput, one_line, shown, true_false, unknown, within
from pyro_vae.runs.explain import explain as explain
from pyro_vae.runs.explain import no_key
from pyro_vae.runs.groups import CONFIG_DIR, contents_of, options_of
from pyro_vae.runs.plain import not_plain

SECTIONS = {
    "train": ("data", "network", "prior", "likelihood", "guide", "objective", "optimizer", "scheduler", "trainer",
              "estimator"),
    "evaluate": ("estimator",),
    "score": ("estimator",),
}  # fmt: skip
"""Sections that each command instantiates."""
NEEDED = {
    "train": ("latent_dim", "seed"),
    "evaluate": ("run", "split", "device", "seed"),
    "score": ("run", "split", "device", "seed"),
}
"""Other keys that each command needs."""


def compose(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """Compose the configuration of `python -m pyro_vae.train OVERRIDES`.

    Raises:
        BadInput: if an override is unknown or malformed.
    """
    return composed(overrides, config_name)[0]


def composed(overrides: Sequence[str], config_name: str = "train") -> tuple[DictConfig, dict[str, str]]:
    """Compose the configuration of a command, and return it with the option that is chosen in each group.

    Raises:
        BadInput: if an override is unknown or malformed.
    """
    check_options(overrides)
    active = GlobalHydra.instance().hydra  # of the running command: Hydra has only one
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = hydra_compose(config_name, list(overrides), return_hydra_config=True)
        with open_dict(config):
            choices = config.pop("hydra").runtime.choices
        check_settings(config, config_name)
        return config, {str(group): str(name) for group, name in choices.items() if group in options_of()}
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise BadInput(explain(error) or one_line(error)) from error
    finally:
        GlobalHydra.instance().hydra = active


def option(key: str, value: object) -> str:
    """Write KEY=VALUE for a command line, quoted if necessary."""
    plain = re.fullmatch(r"[\w./:+@%-]+", str(value), re.ASCII)
    return f"{key}={value}" if plain else shlex.quote("{}='{}'".format(key, str(value).replace("'", "\\'")))


def check_options(overrides: Sequence[str]) -> None:
    """Check that options are chosen by name: of others, such as `guide=3`, Hydra ignores some and crashes at some.

    Raises:
        BadInput: at the first that is not.
    """
    parser = OverridesParser.create()
    for override in overrides:
        group = override.partition("=")[0].lstrip("+")
        if group not in options_of():
            continue
        try:
            parsed = parser.parse_override(override)
            value = None if parsed.is_sweep_override() else parsed.value()
        except (HydraException, ValueError):  # Hydra will raise it with a reason
            continue
        names = value if isinstance(value, list) and group == "experiment" else [value]
        right = names and all(
            isinstance(name, str) and ".." not in name for name in names
        )  # "..": another group's file
        if not parsed.is_sweep_override() and not right:
            raise unknown(group, value, options_of()[group])


def keys_of(overrides: Iterable[str]) -> list[str]:
    """Return the key that each override sets, adds or deletes: `trainer.patience` for `+trainer.patience=3`."""
    return [override.partition("=")[0].lstrip("+~") for override in overrides]


def check_settings(config: DictConfig, config_name: str = "train") -> None:
    """Refuse settings that a run cannot use or a checkpoint cannot hold.

    These are sections that are not options, missing values, NaN and infinity, integers of more than 64 bits, and
    settings of torch's classes whose types differ from those in conf/: torch's errors would not name them.

    Raises:
        BadInput: at the first such setting, with its key.
    """
    content: Any = OmegaConf.to_container(config, resolve=True)
    for key in NEEDED.get(config_name, ()):
        if key not in content:
            raise BadInput(f"{key} is missing: give {key}=VALUE")
    optional = ("missingness",) if content.get("missingness") is not None else ()
    for group in (*SECTIONS.get(config_name, ()), *optional):
        section = content.get(group)
        if not isinstance(section, dict) or not isinstance(section.get("_target_"), str):
            raise BadInput(f"{group} is not an option of conf/{group}: choose one of {', '.join(options_of()[group])}")
        if not isinstance(section.get("_partial_", False), bool):
            raise BadInput(f"{group}._partial_={section['_partial_']} must be true or false, or omitted")
    for key, value in _leaves(content):
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{key}={value} must be a finite number")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise BadInput(f"{key}={shown(value)} must be at most {2**63 - 1}")
        if value == "???" and key not in ("run", "study"):  # checked by the commands
            raise BadInput(f"{key} is missing: give {key}=VALUE")
    if config_name == "train" and (found := not_plain({key: content[key] for key in content if key != "trust"})):
        raise BadInput(f"{found[0]} holds {found[1]}, which a checkpoint cannot keep")
    for group in ("optimizer", "scheduler"):
        chosen = content.get(group, {})
        for default in contents_of(group, chosen.get("_target_")):
            for name in chosen:
                _check_kind(f"{group}.{name}", chosen[name], default.get(name))


def _check_kind(key: str, value: object, default: object) -> None:
    """Check that a value has the same kind as its default."""
    if isinstance(default, bool):
        if value is not None:
            true_false(key, value)
    elif isinstance(default, (int, float)):
        within(key, value)
    elif isinstance(default, list):
        if not isinstance(value, list):
            raise BadInput(f"{key}={shown(value)} must be a list of numbers, as in {key}={default}")
        for number in value:
            within(key, number)


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the values in plain containers, with their keys."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else None
    if inside is None:
        yield key, content
    else:
        for name, value in inside:
            yield from _leaves(value, f"{key}.{name}" if key else str(name))


def check_key(key: str, target: str, saved: Mapping[str, Any]) -> None:
    """Check that an option of conf/ has a key, now or when it was saved. Your own classes may have any keys.

    Args:
        key: for example `trainer.max_epochs`.
        target: the `_target_` of its section.
        saved: the section in the saved configuration, maybe with another `_target_`.

    Raises:
        BadInput: if it has not.
    """
    group, _, name = key.partition(".")
    same = contents_of(group, target)
    before = saved if saved.get("_target_") == target else {}
    choices = [str(choice) for choice in dict.fromkeys(chain(before, *same)) if choice != "_target_"]
    if same and name.partition(".")[0] not in ("", "_target_", *choices):
        raise BadInput(no_key(key, choices))
