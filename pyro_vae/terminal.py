"""What a command says last, and in characters that any terminal has."""

from __future__ import annotations

import codecs
import sys

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

PLAIN = {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "...", "‖": "||", "≥": ">=", "≤": "<=", "∞": "inf", "√": "sqrt"}
"""What stands for characters in our tables that ASCII or Latin-1 do not have."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that was not in UTF-8
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("pyro_vae.plain", _plain)


def lose_no_line() -> None:
    """Let stdout and stderr replace what their encoding lacks: an error would lose the whole line or table."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="pyro_vae.plain")


def fail(line: str, status: int) -> None:
    """Print `line` on stderr and exit."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)
