"""Checks which classes a configuration from an untrusted file would instantiate."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from pyro_vae.errors import BadInput, shown
from pyro_vae.runs.groups import contents_of
from pyro_vae.runs.plain import require_plain

OF_THE_MODEL = ("prior", "likelihood", "guide", "network", "missingness")
OPTIONAL = ("missingness",)
"""Sections that may be null, or missing in the configurations of earlier versions."""
OF_TRAINING = ("objective", "optimizer", "scheduler", "trainer", "estimator")
OF_THE_DATA = ("data",)


def check_sections(config: Any, sections: Collection[str], path: Path, trust: Collection[str] | None = ()) -> None:
    """Reject a configuration from a file that would make `instantiate` call anything but known options.

    A section may name the options of its group in conf/ (for optimizer and scheduler also torch's classes) with their
    keys, and the classes in `trust` with any keys. Other sections are not checked: do not instantiate them.

    Args:
        config: the object to be instantiated afterwards, not a copy.
        sections: the groups to be instantiated.
        path: the file, for the message.
        trust: names of your own classes, such as `my_package.MyGuide`.

    Raises:
        BadInput: if it would call anything else.
    """
    trusted = as_names(trust)
    require_plain(config, path)

    def require(target: Any, group: str) -> None:
        if target not in trusted and (not isinstance(target, str) or _keys(group, target) is None):
            raise BadInput(
                f"{path} would call {target}, which is not one of pyro_vae's options for {group}: "
                f"trust=[{target}] allows it"
            )

    for group in sections:
        section = config.get(group) if isinstance(config, dict) else None
        if group in OPTIONAL and section is None and isinstance(config, dict):
            continue
        if not isinstance(section, dict):
            raise BadInput(f"{path} was not written by pyro_vae: its configuration has no section {group}")
        target = section.get("_target_")
        require(target, group)
        for key, value in section.items():
            inner = targets_in(value)
            if target in trusted:
                for nested in inner:
                    require(nested, group)
            elif inner:
                raise BadInput(f"{path} would call {inner[0]} for {group}.{key}, which takes no class")
            elif key not in (_keys(group, target) or ()):
                raise BadInput(f"{path} was not written by pyro_vae: {group}.{key} is unknown to {target}")
            elif key == "_partial_" and value is not True:
                raise BadInput(f"{path} was not written by pyro_vae: {group}._partial_ is {value}, not true")


def targets_in(value: Any) -> list[Any]:
    """Find all `_target_`s in plain containers."""
    found, waiting = [], [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "_target_" in node:
                found.append(node["_target_"])
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found


def as_names(trust: Collection[str] | None) -> list[str]:
    """Convert the option `trust`, a name, a list of names or None, to a list.

    Raises:
        BadInput: if it is anything else.
    """
    names = [trust] if isinstance(trust, str) else [] if trust is None else trust
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"trust={shown(trust)} must be a list of names, as in trust=[my_package.MyGuide]")
    return list(names)


@cache
def _keys(group: str, target: str) -> frozenset[str] | None:
    """Return the keys that a target may have in a group; None if it does not belong to the group."""
    same = contents_of(group, target)
    module, _, name = target.rpartition(".")
    if not same and module != {"optimizer": "torch.optim", "scheduler": "torch.optim.lr_scheduler"}.get(group):
        return None
    if not same and re.fullmatch(r"[A-Z]\w*", name) is None:
        return None
    function: Any = getattr(import_module(module), name, None)
    if not same and not _is_optim(function):
        return None
    keys = {str(key) for option in same for key in option} | {"_target_"} | (set() if same else {"_partial_"})
    return frozenset(keys | {key for key in inspect.signature(function).parameters if key != "kwargs"})


def _is_optim(kind: Any) -> bool:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    return isinstance(kind, type) and issubclass(kind, (Optimizer, LRScheduler))
