"""Plain data out of files that a stranger may have written: no objects, no interpolations, bounded in size and depth.

Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from pyro_vae.errors import BadInput, one_line
from pyro_vae.files import read

MAX_DEPTH = 16
MAX_VALUES = 10_000
MAX_LENGTH = 1_000
"""Of one list."""
MAX_CHARACTERS = 10_000
"""Of one string."""
MAX_YAML_BYTES = 2**20


def require_plain(value: Any, path: Path, interpolations: bool = False) -> None:
    """Check that `value` holds nothing but dicts with string keys, lists, strings, numbers, booleans and None.

    What passes can be given to `OmegaConf.create` and Hydra's `instantiate`: they find in it what was checked.
    OmegaConf turns tuples into lists and resolves interpolations, so both are rejected. A list that contains itself is
    infinitely deep, and shared lists count as often as they occur.

    Args:
        value: the object, not a copy of it.
        path: the file it comes from, for the message.
        interpolations: whether strings may hold `${`: only if nothing resolves them.

    Raises:
        BadInput: if it holds anything else, or is too large or too deeply nested.
    """
    waiting = [(value, 0)]
    num_values = 0
    while waiting:
        node, depth = waiting.pop()
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_VALUES:
            raise _not_ours(path, f"more than {MAX_VALUES} values, or more than {MAX_DEPTH} levels of them")
        if type(node) is dict:
            for key, inner in node.items():
                if type(key) is not str:
                    raise _not_ours(path, f"a key of type {type(key).__name__}")
                _require_plain_string(key, path, interpolations)
                waiting.append((inner, depth + 1))
        elif type(node) is list:
            if len(node) > MAX_LENGTH:
                raise _not_ours(path, f"a list of {len(node)} values")
            waiting += [(inner, depth + 1) for inner in node]
        elif type(node) is str:
            _require_plain_string(node, path, interpolations)
        elif type(node) is int:
            if abs(node) >= 2**63:
                raise _not_ours(path, "an integer of more than 64 bits")
        elif node is not None and type(node) not in (float, bool):
            raise _not_ours(path, f"a value of type {type(node).__name__}")


def _require_plain_string(text: str, path: Path, interpolations: bool) -> None:
    if len(text) > MAX_CHARACTERS:
        raise _not_ours(path, f"a string of {len(text)} characters")
    if text == "???":  # OmegaConf's mark of a missing value
        raise _not_ours(path, "a missing value")
    if "${" in text and not interpolations:
        raise _not_ours(path, f"the interpolation {text[:80]}")


def _not_ours(path: Path, what: str) -> BadInput:
    return BadInput(f"{path} was not written by pyro_vae: its configuration holds {what}")


def read_yaml(path: Path) -> Any:
    """The content of a small YAML file, such as those that Hydra writes to a run's .hydra/; nothing is resolved.

    Raises:
        BadInput: if the file is missing, is not UTF-8 or YAML, uses aliases, or holds what is not plain.
    """
    try:
        text = read(path, MAX_YAML_BYTES).decode("utf-8")
        depth = 0
        for num_events, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH or num_events > 2 * MAX_VALUES:
                raise BadInput(
                    f"{path} was not written by pyro_vae: it holds aliases, or is too large or deeply nested"
                )
        content = yaml.load(text, Loader=get_yaml_loader())  # a SafeLoader that reads numbers as OmegaConf does
    except BadInput:
        raise
    except Exception as error:  # YAML's and Unicode errors, RecursionError
        raise BadInput(f"{path} cannot be read ({type(error).__name__}: {one_line(error)[:120]})") from error
    require_plain(content, path, interpolations=True)
    return content


def with_references(content: Any) -> Any:
    """`content` with each value `${group.key}` replaced by the value it names: the interpolations that conf/ has.

    Others stay as they are, and `require_plain` rejects them.
    """
    if not isinstance(content, dict):
        return content

    def named(value: Any) -> Any:
        match = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value) if isinstance(value, str) else None
        if match is None:
            return value
        group = content.get(match[1])
        target = group.get(match[2], value) if isinstance(group, dict) else value
        return value if isinstance(target, (dict, list)) else target

    return {
        name: {key: named(value) for key, value in group.items()} if isinstance(group, dict) else group
        for name, group in content.items()
    }
