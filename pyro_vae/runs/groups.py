"""Reads conf/: its groups of options, and the comments in its files. Imports no torch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_HERE = Path(__file__).resolve().parents[1]
# conf/ is inside the package in a wheel, beside it in a checkout
CONFIG_DIR = next(d for d in (_HERE / "conf", _HERE.parent / "conf") if d.is_dir())


@cache
def options_of() -> dict[str, list[str]]:
    """List the options of each group in conf/; those in folders as in `kingma_welling/mnist`."""
    folders = sorted(d for d in CONFIG_DIR.iterdir() if d.is_dir() and d.name != "hydra")
    names = {d.name: sorted(f.relative_to(d).with_suffix("").as_posix() for f in d.rglob("*.yaml")) for d in folders}
    return {group: options for group, options in names.items() if options}


def contents_of(group: str, target: object) -> list[dict[str, Any]]:
    """Read the options of a group in conf/ whose `_target_` is `target`, without resolving interpolations."""
    return [content for content in _contents(group) if content.get("_target_") == target]


def options_with(group: str, key: str) -> list[str]:
    """List the options of a group in conf/ that have a setting of this name."""
    names = options_of().get(group, [])
    return [name for name in names if key in comments(f"{group}/{name}")]


@cache
def _contents(group: str) -> list[dict[str, Any]]:
    options: Any = [OmegaConf.to_container(OmegaConf.load(f)) for f in sorted((CONFIG_DIR / group).glob("*.yaml"))]
    return options


def first_comment(name: str) -> str:
    """Return the first comment line of a file in conf/, such as `guide/mixture`."""
    lines = (CONFIG_DIR / f"{name}.yaml").read_text("utf-8").splitlines()
    return next((line[2:] for line in lines if re.match("# (?!@package)", line)), "")


def comments(name: str) -> dict[str, str]:
    """Return the comment of each key of a file in conf/, such as `train`; that of `data.path` is also that of `data`.

    A comment goes on in the lines below, if they hold nothing else.
    """
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    key = ""
    for line in (CONFIG_DIR / f"{name}.yaml").read_text("utf-8").splitlines():
        if more := re.fullmatch(r" +# (.*)", line):
            if found.get(key):
                found[key] += f" {more[1]}"
        elif entry := re.match(r"( *)(\w+):(?:.*? # (.*))?", line):
            indent, word, comment = len(entry[1]), entry[2], entry[3] or ""
            parents = [parent for parent in parents if parent[0] < indent]
            key = ".".join([*(parent for _, parent in parents), word])
            inherited = found.get(parents[-1][1], "") if parents and not comment else ""
            found[key] = comment or inherited
            parents.append((indent, word))
        else:
            key = ""
    return found
