"""Explains errors in the user's input in one line. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from pyro_vae.errors import BadInput, causes, one_line, shown, unknown
from pyro_vae.runs.groups import options_of, options_with

ADDED = ("experiment", "launcher")
"""Groups of which no option is chosen by default."""

ABOUT_THE_DATA = ("data_shape", "num_classes", "num_categories")
"""What priors are given besides their settings (`pyro_vae.priors.Prior`)."""


def explain(error: BaseException) -> str | None:
    """Explain in one line how to fix an error in the user's input; None if the error is a bug."""
    for cause in causes(error):
        if isinstance(cause, BadInput):
            return str(cause)
    if isinstance(error, InstantiationException):
        return _not_built(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, InterpolationResolutionError):
        reason = one_line(error).partition(" full_key")[0]
        return f"{error.full_key} refers to a key or value that does not exist: {reason}"
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*?)'\n", str(error)):
        return _several(*found.groups())
    if found := re.match(r"Could not delete from config. '(.*?)'", str(error)):
        return f"{found[1]} cannot be deleted: it is not a key of the configuration"
    if "Config group override must be" in str(error):
        return "an option without a key cannot be read: write KEY=VALUE"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.partition("/")
        if plugin := re.fullmatch(r"launcher/(.*)", name):
            extra = "slurm" if plugin[1].startswith("submitit") else plugin[1]
            return f"+launcher={extra} needs a plugin: pip install -e '.[{extra}]'"
        return str(unknown(group, name, options_of().get(group, list(error.options))))
    if isinstance(error, ConfigCompositionException):
        return _not_composed(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror or one_line(error)}; checkpoints saved before are kept"
    if "integer string conversion" in str(error):  # Python's limit, raised within Hydra
        return "an option holds an integer of thousands of digits: give a smaller number"
    if isinstance(error, (HydraException, OmegaConfBaseException)) or re.match(
        r"Config group override|The --resolve flag", str(error)
    ):
        return one_line(error).partition(" full_key")[0]
    return None


def _not_built(error: InstantiationException) -> str | None:
    """Explain why a section of the configuration makes no object."""
    key = getattr(error, "full_key", "") or str(error).rsplit("full_key: ", 1)[-1].strip()
    kinds = (TypeError, ValueError, ArithmeticError, ImportError, AttributeError, OSError)
    if blamed := [e for e in causes(error) if isinstance(e, kinds)]:
        reason = one_line(blamed[-1])
        if found := re.search(r"unexpected keyword argument '(\w+)'", reason):
            if key == "prior" and found[1] in ABOUT_THE_DATA:
                return f"prior: {reason}, which every prior is given: add **data to its parameters"
            return f"{key}.{found[1]} is not a setting of this option ({reason}): leave it out"
        return f"{key}: {reason}"
    raised = error.__cause__
    if raised is None:
        return f"{key}: {re.split(' because | full_key', one_line(error))[0]}"
    ours = re.search("'pyro_vae[.]", str(error)) is not None
    return None if ours else f"{key}: {type(raised).__name__}: {one_line(raised)}"


def _unreadable(argument: str) -> str:
    """Explain how to write an argument that is not KEY=VALUE, or whose value Hydra cannot read."""
    text = shown(argument)
    key, equals, value = argument.partition("=")
    groups = [f"{'+' * (group in ADDED)}{group}={text}" for group, names in options_of().items() if text in names]
    if not text:
        fix = "an empty argument cannot be read: write KEY=VALUE"
    elif any(argument.count(left) != argument.count(right) for left, right in ("[]", "{}")):
        fix = f"{text} cannot be read: a bracket is missing; put lists in quotes, as in '{key or 'KEY'}=[A,B]'"
    elif re.match(r"\S+=\S* +[+~]*[\w.]+=", argument):
        fix = f"{text} holds several options: quote each one separately, or none of them"
    elif equals and re.fullmatch(r"\(.*\)", value):
        fix = f"{text} cannot be read: write lists in brackets, as in '{key}=[{value[1:-1]}]'"
    elif equals:
        fix = f"{text} cannot be read: write KEY=VALUE, or KEY=\"'VALUE'\" with quotes"
    elif found := re.fullmatch(r"([a-z][\w.]+): ?(\S+)", argument):
        fix = f"{text} cannot be read: write {found[1]}={found[2]}"
    elif argument in ("help", "h", "?"):
        fix = f"{text} cannot be read: add --help"
    elif groups:
        fix = f"{text} has no key: write {' or '.join(groups)}"
    elif re.search(r"[/\\]|\.(npy|npz|csv|tsv|parquet|pt|db|yaml)$", argument):
        fix = f"{text} has no key: write KEY={text}, as in run=DIR or data.path=FILE"
    elif re.fullmatch(r"[a-z_][\w.]*", argument):
        fix = f"{text} has no value: write {text}=VALUE, without spaces around ="
    else:
        fix = f"{text} cannot be read: write KEY=VALUE, without spaces around ="
    return fix


def _several(key: str, values: str) -> str:
    """Explain how to write the value of an override that Hydra takes for a sweep."""
    sweep = "add -m to the command to run it once for each of them"
    if key.lstrip("+") in options_of():
        return f"{key}={values} holds several options: choose one, or {sweep}"
    return (
        f"{key}={values} holds several values: write {key}=[{values}] for a list, or {key}=\"'{values}'\" for a "
        f"string, or {sweep}"
    )


def _not_composed(error: ConfigCompositionException) -> str:
    """Explain an override of an unknown group or key, with the keys that exist."""
    text = one_line(error)
    if found := re.match(r"Could not override '(.*?)'. No match.*?(?: use (\+\S+))?$", text):
        if found[1] in ADDED:
            return f"{found[1]} has no default that could be replaced: write {found[2] or f'+{found[1]}=NAME'}"
        return f"{found[1]} is not an option of this command: leave it out, or see --help"
    if found := re.match(r"In '(\w+)/.*?': Could not override", text):
        return f"{found[1]} is not an option of this command: leave it out, or see --help"
    if found := re.match(r"Multiple values for (.*?)\. To override .*: (.*)'", text):
        group, name = found.groups()
        fix = "choose one" if group in ADDED else f"write {group}={name}, without +"
        return f"{group}={name} would be a second option of {group}: {fix}"
    if found := re.match(r"Could not append to config. An item is already at '(.*?)'", text):
        return f"+{found[1]} would add a key that exists: write {found[1]}=VALUE, without +"
    if found := re.match(r"force-add of config groups is not supported: '\+\+(.*)'", text):
        group = found[1].partition("=")[0]
        return f"++{found[1]} cannot be read: write {'+' * (group in ADDED)}{found[1]}"
    cause = error.__cause__
    node, key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None)
    if node is None or not key:
        return text
    if not isinstance(node, DictConfig):  # a mapping instead of a list
        return f"{key} must be a list, as in {key}=[1,2]"
    choices = [str(name) for name in node if name != "hydra" and not str(name).startswith("_")]
    if str(key).rpartition(".")[-1] in choices:  # a known key with a value of the wrong type
        return f"{key}: {one_line(cause) if cause else text}"
    if not node:
        parent, _, name = str(key).rpartition(".")
        return f"{key} is not a key of the configuration: set the whole mapping, as in '{parent}={{{name}: VALUE}}'"
    return no_key(str(key), choices, OmegaConf.to_container(node._get_root()))


def no_key(key: str, choices: Sequence[str], content: Any = MappingProxyType({})) -> str:
    """Say that a key does not exist, and suggest one of that name elsewhere in `content`, or a similar choice."""
    name = key.rpartition(".")[-1]
    sections: Mapping[str, Any] = {g: s for g, s in content.items() if isinstance(s, dict) and g != "hydra"}
    places = [name] * (name in content) + [f"{group}.{name}" for group, section in sections.items() if name in section]
    names = {k: f"{group}.{k}" for group, section in sections.items() for k in section}
    names |= {choice: choice for choice in choices}
    close = places or [names[k] for k in difflib.get_close_matches(name, names, n=1, cutoff=0.7)]
    group = key.partition(".")[0]
    if key == f"{group}.{name}" and (options := options_with(group, name)):  # settings of options not chosen
        close = [f"{key} of {' or '.join(f'{group}={option}' for option in options)}"]
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    listed = f"choose one of {', '.join(choices)}" if choices else "it has no settings"
    return f"{key} is not a key of the configuration{meant}: {listed}"
