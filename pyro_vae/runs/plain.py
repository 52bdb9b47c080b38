"""Checks that data from untrusted files are plain: no objects, no interpolations, limited size and depth.

Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from pyro_vae.errors import BadInput, one_line
from pyro_vae.runs import files

MAX_DEPTH = 16
MAX_VALUES = 300_000
"""Maximum number of values: two hundred for each of the most columns of a table, which are listed twice."""
MAX_LENGTH = 1_000
"""Maximum length of a list."""
MAX_CHARACTERS = 10_000
"""Maximum length of a string."""
MAX_YAML_BYTES = 2**20


def require_plain(value: Any, path: Path, interpolations: bool = False) -> None:
    """Check that `value` holds only dicts with string keys, lists, strings, numbers, booleans and None.

    Afterwards `OmegaConf.create` and Hydra's `instantiate` see exactly what was checked. OmegaConf turns tuples into
    lists and resolves interpolations, so both are rejected. A list that contains itself is infinitely deep, and shared
    lists count at each occurrence.

    Args:
        value: the object itself, not a copy.
        path: the file it comes from, for the message.
        interpolations: allow `${` in strings; only if they are never resolved.

    Raises:
        BadInput: if it holds anything else, or is too large or too deeply nested.
    """
    if found := not_plain(value, interpolations):
        raise BadInput(f"{path} was not written by pyro_vae: its configuration holds {found[1]}")


def not_plain(value: Any, interpolations: bool = False) -> tuple[str, str] | None:
    """Return the key and a description of the first value that `require_plain` rejects; None if there is none."""
    waiting = [("", value, 0)]
    num_values = 0
    while waiting:
        place, node, depth = waiting.pop()
        num_values += 1
        what = None
        if depth > MAX_DEPTH or num_values > MAX_VALUES:
            return place, f"more than {MAX_VALUES} values, or more than {MAX_DEPTH} levels of them"
        if type(node) is dict:
            for key, inner in node.items():
                what = what or (_not_plain_string(key, interpolations) if type(key) is str else _of_type("key", key))
                waiting.append((f"{place}.{key}" if place else key, inner, depth + 1))
        elif type(node) is list:
            if len(node) > MAX_LENGTH:
                return place, f"a list of {len(node)} values"
            waiting += [(place, inner, depth + 1) for inner in node]
        elif type(node) is str:
            what = _not_plain_string(node, interpolations)
        elif type(node) is int:
            what = "an integer of more than 64 bits" if abs(node) >= 2**63 else None
        elif node is not None and type(node) not in (float, bool):
            what = _of_type("value", node)
        if what is not None:
            return place, what
    return None


def _not_plain_string(text: str, interpolations: bool) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return f"a string of {len(text)} characters"
    if text == "???":  # OmegaConf's mark of a missing value
        return "a missing value"
    return f"the interpolation {text[:80]}" if "${" in text and not interpolations else None


def _of_type(what: str, value: object) -> str:
    return f"a {what} of type {type(value).__name__}"


def read_yaml(path: Path) -> Any:
    """Read a small YAML file, such as those in .hydra/, without resolving interpolations.

    Raises:
        BadInput: if the file is missing, is not UTF-8 or YAML, uses aliases, or is not plain.
    """
    try:
        text = files.read(path, MAX_YAML_BYTES).decode()
        depth = 0
        for num_events, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH or num_events > 2 * MAX_VALUES:
                raise BadInput(
                    f"{path} was not written by pyro_vae: it holds aliases, or is too large or deeply nested"
                )
        content = yaml.load(text, Loader=get_yaml_loader())  # a SafeLoader that parses numbers like OmegaConf
    except BadInput:
        raise
    except Exception as error:  # YAML's and Unicode errors, RecursionError
        raise BadInput(f"{path} cannot be read ({type(error).__name__}: {one_line(error)[:120]})") from error
    require_plain(content, path, interpolations=True)
    return content


def with_references(content: Any) -> Any:
    """Resolve values `${group.key}`, the only kind of interpolation in conf/.

    Others are kept, and `require_plain` will reject them.
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
