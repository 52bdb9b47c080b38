"""A command's last line, and output in characters that any terminal has."""

from __future__ import annotations

import codecs
import io
import sys

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

PLAIN = {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "...", "‖": "||", "≥": ">=", "≤": "<=", "∞": "inf", "√": "sqrt"}
"""Replacements for characters in our tables that ASCII or Latin-1 lack."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that was not in UTF-8
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("pyro_vae.runs.plain", _plain)


def lose_no_line() -> None:
    """Make stdout and stderr replace characters that their encoding lacks: an error would lose the whole table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # notebooks have other streams, for any character
            stream.reconfigure(errors="pyro_vae.runs.plain")


def fail(line: str, status: int) -> None:
    """Print `line` on stderr and exit."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)
