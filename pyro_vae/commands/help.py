"""The commands' --help, from the comments in conf/. Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from pyro_vae.errors import BadInput, meant, shown
from pyro_vae.runs.config import composed
from pyro_vae.runs.explain import ADDED
from pyro_vae.runs.groups import comments, first_comment, options_of

WIDTH = 100
GROUPS = (
    "data", "likelihood", "missingness", "prior", "guide", "network", "conditioning", "objective", "optimizer",
    "scheduler", "trainer", "estimator",
)  # fmt: skip
"""Groups in the order of the help; others follow."""


def text(command: str, usage: str, arguments: Sequence[str]) -> str:
    """Write the help of a command: usage, options with their comments, and settings of the options that are chosen.

    Where an option is given, as in `guide=mixture --help`, or a group, as in `--help guide`, the help is about that
    group only, with a comment on each setting.

    Args:
        command: for example `train`.
        usage: its description and examples.
        arguments: those of the command line.

    Raises:
        BadInput: if one of the arguments is not an option.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    named = [argument for argument in given if "=" not in argument]
    overrides = [argument for argument in given if argument not in named]
    config, chosen = composed(overrides if command != "search" else [], command)
    groups = sorted((group for group in options_of() if group in chosen), key=_place)
    if command == "train":
        groups = list(dict.fromkeys([*groups, *ADDED]))
    about = _groups_in([*named, *overrides], groups, named)
    content: Any = OmegaConf.to_container(config, resolve=True)
    lines: list[str] = []
    if about and len(groups) > 1:
        for group in about:
            lines += ["", *_options(group, chosen)]
            lines += _explained(group, content, chosen) if group in chosen else []
        lines += ["", f"All options: python -m pyro_vae.{command} --help"]
        return "\n".join(lines[1:])
    if groups:
        lines += ["", "Options, as in GROUP=NAME (* marks those in use):"]
        for group in groups:
            lines += _names(group) if group in ADDED else _options(group, chosen)
    if len(groups) > 1:
        lines += ["", "Their settings, as in trainer.max_epochs=200 (--help trainer explains those of the trainer):"]
        for group in groups:
            lines += _settings(group, content) if isinstance(content.get(group), dict) else []
    else:
        for group in groups:
            lines += _explained(group, content, chosen)
    lines += ["", "Other settings:" if groups else "Settings:", *_keys(command, content, groups), *_last(command)]
    return f"{usage.strip()}\n" + "\n".join(lines)


def _place(group: str) -> tuple[int, str]:
    return GROUPS.index(group) if group in GROUPS else len(GROUPS), group


def _groups_in(arguments: Iterable[str], groups: Sequence[str], named: Sequence[str]) -> list[str]:
    """Return the groups that arguments are about, in the order of the help.

    Raises:
        BadInput: if one without a value names no group.
    """
    words = {argument: argument.partition("=")[0].lstrip("+").partition(".")[0] for argument in arguments}
    for argument in named:
        if words[argument] not in groups:
            choices = f"choose one of {', '.join(groups)}" if groups else "this command has none"
            suggestion = meant(argument, groups)
            raise BadInput(f"--help {shown(argument)}: not a group of options{suggestion}: {choices}")
    return [group for group in groups if group in words.values()]


def _options(group: str, chosen: Mapping[str, str]) -> Iterator[str]:
    """Write the options of a group, one a line, with their comments."""
    names = options_of()[group]
    key = f"{'+' * (group in ADDED)}{group}="
    width = max(map(len, names))
    for i, name in enumerate(names):
        mark = "*" if name == chosen.get(group) else " "
        start = f"  {key if i == 0 else '':13}{mark} {name:{width}}  "
        yield _hanging(start, first_comment(f"{group}/{name}"))


def _names(group: str) -> Iterator[str]:
    """Write the names of a group's options, without those in folders."""
    names = [name for name in options_of()[group] if "/" not in name]
    yield _hanging(f"  {f'+{group}=':13}  ", f"{', '.join(names)}; --help {group} explains them")


def _settings(group: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Write the settings of a group's chosen option in a few lines."""
    if values := _values(content[group], group):
        yield _hanging(f"  {f'{group}.':13}  ", " ".join(f"{key[len(group) + 1 :]}={values[key]}" for key in values))


def _explained(group: str, content: Mapping[str, Any], chosen: Mapping[str, str]) -> Iterator[str]:
    """Write the settings of a group's chosen option, one a line, with their comments; of an experiment, its choices."""
    name = f"{group}={chosen[group]}"
    if not isinstance(content.get(group), dict):
        if changed := _changes(group, chosen, content):
            yield from ("", f"With {'+' * (group in ADDED)}{name}:")
            yield _hanging("  ", " ".join(changed))
        return
    about = {f"{group}.{key}": comment for key, comment in comments(f"{group}/{chosen[group]}").items()}
    values = _values(content[group], group)
    yield from ("", f"Settings of {name}:" if values else f"{name} has no settings.")
    yield from _table(values, about)


def _changes(group: str, chosen: Mapping[str, str], content: Mapping[str, Any]) -> list[str]:
    """Return the options and settings that an experiment replaces, or another file without settings of its group."""
    _, defaults = composed([])
    options = [f"{g}={name}" for g, name in chosen.items() if g in defaults and g != group and name != defaults[g]]
    before = _values(OmegaConf.to_container(composed(options)[0], resolve=True))
    settings = {key: value for key, value in _values(content).items() if before.get(key) != value and key != group}
    return [*options, *(f"{key}={value}" for key, value in settings.items())]


def _keys(command: str, content: Mapping[str, Any], groups: Sequence[str]) -> Iterator[str]:
    """Write the settings that belong to no group, with their comments."""
    own = {key: value for key, value in content.items() if (key not in groups and key != "train") or command == "train"}
    values = _values({key: value for key, value in own.items() if key not in groups})
    name = "EXPERIMENT" if command == "train" else command
    if command not in ("evaluate", "score"):  # which write to the run's
        values["hydra.run.dir"] = "DIR"
    yield from _table(values, {**comments(command), "hydra.run.dir": f"instead of outputs/{name}/DATE_TIME"})


def _values(content: Any, prefix: str = "") -> dict[str, str]:
    """Flatten a section: dotted key -> value, as on the command line."""
    if not isinstance(content, dict) or not content:
        return {prefix: _written(content)} if (prefix and content != {}) or prefix == "space" else {}
    found: dict[str, str] = {}
    for key, value in content.items():
        if not str(key).startswith("_"):
            found |= _values(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    plain = {"None": "null", "True": "true", "False": "false", "???": ""}
    return plain.get(str(value), str(value)) if not isinstance(value, dict) else "{}"


def _table(values: Mapping[str, str], about: Mapping[str, str]) -> Iterator[str]:
    """Write settings, one a line, with their comments in a column."""
    if not values:
        return
    starts = {key: f"  {key}={value}" for key, value in values.items()}
    width = max(len(start) for start in starts.values() if len(start) <= WIDTH // 2)
    for key, start in starts.items():
        comment = f"{'required: ' * (values[key] == '')}{about.get(key, '')}"
        yield _hanging(f"{start:{width}}  ", comment) if comment else start


def _hanging(start: str, words: str) -> str:
    """Write words after `start`, with the lines that follow indented as far as the first."""
    return textwrap.fill(
        words, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    ).rstrip() or start.rstrip()  # fmt: skip


def _last(command: str) -> Iterator[str]:
    if command == "search":
        yield "All other arguments are passed to the runs: see python -m pyro_vae.train --help."
    sweep = "-m runs once for each of several values, as in seed=0,1,2; " if command == "train" else ""
    yield f"{sweep}--cfg job prints the configuration."
