"""The commands' messages, on screen and in train.log."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from pyro_vae.errors import BadInput, printable
from pyro_vae.programs.notes import NOTE
from pyro_vae.runs.files import Folder, given

PREFIXES = {NOTE: "note: ", logging.WARNING: "warning: "}
"""Prefixes of messages by level. Messages must not contain them."""


class RunLog(logging.StreamHandler[TextIO]):
    """Appends messages to a file in UTF-8. Unlike `logging.FileHandler` it does not follow symbolic links.

    Args:
        filename: the file.

    Raises:
        BadInput: if the file cannot be written, or is a link, a pipe or a device.
    """

    def __init__(self, filename: str) -> None:
        path = Path(filename)
        try:
            with Folder(given(path.parent)) as folder:
                super().__init__(folder.append(path.name))
        except OSError as error:  # Hydra would wrap it into an error without the file's name
            raise BadInput(f"{path}: {error.strerror}") from error

    def flush(self) -> None:
        """Write buffered messages."""
        if not self.stream.closed:
            super().flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # the disk is full
            self.stream.close()
        super().close()


class PrintableFormatter(logging.Formatter):
    """Puts the level before notes and warnings, and escapes control characters other than line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the record's message, with its level."""
        record.message = PREFIXES.get(record.levelno, "") + record.message
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return "\n".join(map(printable, super().format(record).split("\n")))


class Held(logging.Handler):
    """Keeps the messages of another handler. Unlike `logging.handlers.MemoryHandler` it ignores Hydra's flushing."""

    def __init__(self, shown_by: logging.Handler) -> None:
        super().__init__()
        self.shown_by = shown_by
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.records.append(record)


def hold() -> None:
    """Keep messages from the screen until `show`: if the input is rejected, its error is the only output."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
        root.addHandler(Held(handler))


def show() -> None:
    """Show the messages that `hold` has kept, and those that follow."""
    root = logging.getLogger()
    for held in [handler for handler in root.handlers if isinstance(handler, Held)]:
        root.removeHandler(held)
        root.addHandler(held.shown_by)
        for record in held.records:
            held.shown_by.handle(record)


def to_logs_only(line: str) -> None:
    """Write an error to the run's log only; the screen shows it last."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, line, None, None))


def close() -> None:
    """Close the run's log."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, RunLog)]:
        root.removeHandler(handler)
        handler.close()
