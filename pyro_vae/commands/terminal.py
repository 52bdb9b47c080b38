"""Output that any terminal can show, and the last line of a command."""

from __future__ import annotations

import codecs
import io
import sys

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

PLAIN = {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "...", "‖": "||", "≥": ">=", "≤": "<=", "∞": "inf", "√": "sqrt"}
"""Replacements for characters in tables that ASCII or Latin-1 lacks."""


HANDLER = "pyro_vae.plain"
"""Name of the error handler `_plain` for encodings."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(HANDLER, _plain)


def lose_no_line() -> None:
    """Make stdout and stderr replace characters that they cannot encode, instead of raising errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # streams of notebooks accept any character
            stream.reconfigure(errors=HANDLER)


def fail(line: str, status: int) -> None:
    """Print `line` on stderr and exit."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)
