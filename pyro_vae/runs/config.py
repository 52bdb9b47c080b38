"""Composes configurations from conf/, checks them, and explains their errors in one line. Imports no torch."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from pyro_vae.errors import BadInput, causes, one_line, quoted, shown, true_false, within
from pyro_vae.runs.plain import not_plain

_HERE = Path(__file__).resolve().parents[1]
# conf/ is inside the package in a wheel, beside it in a checkout
CONFIG_DIR = next(d for d in (_HERE / "conf", _HERE.parent / "conf") if d.is_dir())
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
    check_options(overrides)
    active = GlobalHydra.instance().hydra  # of the running command: Hydra has only one
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = hydra_compose(config_name, list(overrides))
        check_settings(config, config_name)
        return config
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
        names = value if isinstance(value, list) else [value]
        right = names and all(
            isinstance(name, str) and ".." not in name for name in names
        )  # "..": another group's file
        if not parsed.is_sweep_override() and not right:
            raise BadInput(f"{group}={shown(value)} is unknown: choose one of {', '.join(options_of()[group])}")


def keys_of(overrides: Iterable[str]) -> list[str]:
    """Return the key that each override sets, adds or deletes: `trainer.patience` for `+trainer.patience=3`."""
    return [override.partition("=")[0].lstrip("+~") for override in overrides]


@cache
def options_of() -> dict[str, list[str]]:
    """List the options of each group in conf/."""
    names = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in CONFIG_DIR.iterdir() if d.is_dir()}
    return {group: options for group, options in names.items() if options}


def contents_of(group: str, target: object) -> list[dict[str, Any]]:
    """Read the options of a group in conf/ whose `_target_` is `target`, without resolving interpolations."""
    return [content for content in _contents(group) if content.get("_target_") == target]


@cache
def _contents(group: str) -> list[dict[str, Any]]:
    options: Any = [OmegaConf.to_container(OmegaConf.load(f)) for f in sorted((CONFIG_DIR / group).glob("*.yaml"))]
    return options


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
        raise BadInput(_no_key(key, choices))


def explain(error: BaseException) -> str | None:
    """Explain in one line how to fix an error in the user's input; None if the error is a bug."""
    for cause in causes(error):
        if isinstance(cause, BadInput):
            return str(cause)
    if isinstance(error, InstantiationException):
        key = getattr(error, "full_key", "") or str(error).rsplit("full_key: ", 1)[-1].strip()
        kinds = (TypeError, ValueError, ArithmeticError, ImportError, AttributeError, OSError)
        if blamed := [e for e in causes(error) if isinstance(e, kinds)]:
            return f"{key}: {one_line(blamed[-1])}"
        raised = error.__cause__
        if raised is None:
            return f"{key}: {re.split(' because | full_key', one_line(error))[0]}"
        ours = re.search("'pyro_vae[.]", str(error)) is not None
        return None if ours else f"{key}: {type(raised).__name__}: {one_line(raised)}"
    if isinstance(error, OverrideParseException):
        return f"{quoted(error.override) or repr('')} cannot be read: write KEY=VALUE, or KEY=\"'VALUE'\" with quotes"
    if isinstance(error, InterpolationResolutionError):
        reason = one_line(error).partition(" full_key")[0]
        return f"{error.full_key} refers to a key or value that does not exist: {reason}"
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*?)'\n", str(error)):
        key, values = found.groups()
        return (
            f"{key}={values} holds several values: write {key}=[{values}] for a list, or {key}=\"'{values}'\" for a "
            "string; only commands can sweep over them, with --multirun"
        )
    if found := re.match(r"Could not delete from config. '(.*?)'", str(error)):
        return f"{found[1]} cannot be deleted: it is not a key of the configuration"
    if "Config group override must be" in str(error):
        return "an option without a key cannot be read: write KEY=VALUE"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            extra = {"submitit_slurm": "slurm", "submitit_local": "slurm"}.get(name, name)
            return f"+launcher={extra} needs a plugin: pip install -e '.[{extra}]'"
        return f"{group}={name} is unknown: choose one of {', '.join(error.options)}"
    if isinstance(error, ConfigCompositionException):
        return _unknown_key(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror or one_line(error)}; checkpoints saved before are kept"
    if "integer string conversion" in str(error):  # Python's limit, raised within Hydra
        return "an option holds an integer of thousands of digits: give a smaller number"
    if isinstance(error, (HydraException, OmegaConfBaseException)) or re.match(
        r"Config group override|The --resolve flag", str(error)
    ):
        return one_line(error).partition(" full_key")[0]
    return None


def _unknown_key(error: ConfigCompositionException) -> str:
    """Explain an override of an unknown key, with the keys that exist."""
    cause = error.__cause__
    node, key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None)
    if node is None or not key:
        return one_line(error)
    if not isinstance(node, DictConfig):  # a mapping instead of a list
        return f"{key} must be a list, as in {key}=[1,2]"
    choices = [str(name) for name in node if name != "_target_" and not str(name).startswith("_")]
    if str(key).rpartition(".")[-1] in choices:  # a known key with a value of the wrong type
        return f"{key}: {one_line(cause) if cause else one_line(error)}"
    return _no_key(str(key), choices, OmegaConf.to_container(node._get_root()))


def _no_key(key: str, choices: Sequence[str], content: Any = MappingProxyType({})) -> str:
    """Say that a key does not exist, and suggest one of that name elsewhere in `content`, or a similar choice."""
    name = key.rpartition(".")[-1]
    sections = [group for group, section in content.items() if isinstance(section, dict) and name in section]
    places = [name] * (name in content) + [f"{group}.{name}" for group in sections if group != "hydra"]
    close = places or difflib.get_close_matches(name, choices, n=1)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{key} is not a key of the configuration{meant}: choose one of {', '.join(choices)}"
