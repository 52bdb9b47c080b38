"""How `mkdocs build` reads docstrings: as text with `code` in it, not as Markdown."""

import re
from typing import Any

import griffe

CODE = r"`[^`]*`|https?://\S+|(?<=\n\n)(?: {4}.*(?:\n|$))+|^ *>>> .*(?:\n *\S.*)*"
"""Code, links, indented formulas, and examples with their output, which stay as they are."""
EMPHASIS = r"(?<!\w)_(?=\S)|_(?![\w:])"
"""Underscores that Markdown would pair, as in (m, s)_d and z_{t}; the name of a parameter ends with a colon."""


class Plain(griffe.Extension):
    """Lets the formulas in docstrings stand, and an `Example:` be a section as `Args:` is."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(rf"({CODE})|<|{EMPHASIS}", _escape, text, flags=re.MULTILINE)


def _escape(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    return "&lt;" if found[0] == "<" else rf"\{found[0]}"
