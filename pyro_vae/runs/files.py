"""Reads and writes files of a run, atomically and only within its directory.

A run directory from an untrusted source may contain symbolic links where a run writes. Therefore a folder is opened
once, without following links, and a file is created in it under a random name and then renamed. Only the directory
that the user gives may be a link, which `given` follows. On systems without these calls (Windows), links are checked
before writing.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pyro_vae.errors import BadInput, one_line, shown

_BY_DESCRIPTOR = os.open in os.supports_dir_fd
_NOFOLLOW, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def make_directory(path: Path, name: str) -> None:
    """Create a directory and its parents, if they do not exist.

    Raises:
        BadInput: if that fails, with the name of the option.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise BadInput(f"{name}={shown(path)} cannot be created ({reason}): give another directory") from error


def given(path: str | Path) -> Path:
    """Expand a path given by the user: `~` is their home, and a symbolic link is followed.

    Raises:
        BadInput: if the link is broken, or the path cannot be one of a directory.
    """
    if path == "":  # which pathlib takes for the current directory
        raise BadInput("the path is empty: give a directory, or . for the current one")
    try:
        path = Path(os.path.expanduser(path))
    except TypeError as error:
        raise BadInput(f"{shown(path)} is not a path: give a directory") from error
    try:
        if not path.is_symlink():
            return path
    except OSError as error:  # the name is too long, or a parent is not readable
        raise BadInput(f"{shown(path)}: {error.strerror}: give another directory") from error
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"{path} is a broken symbolic link: give a directory") from error


def refuse_link(path: Path) -> None:
    """Check that a file or folder of a run is not a symbolic link.

    Raises:
        BadInput: if it is.
    """
    if path.is_symlink():
        raise BadInput(f"{path} is a symbolic link, and runs write only into their own directory: remove the link")


def read(path: Path, limit: int) -> bytes:
    """Read a file from an untrusted source.

    Args:
        path: the file.
        limit: maximum size in bytes.

    Raises:
        BadInput: if it is missing, too large, or not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)  # a pipe must not block
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise BadInput(f"{path} is not a regular file")
        if about.st_size > limit:
            raise BadInput(f"{path} has {about.st_size} bytes, more than the limit of {limit}")
        return file.read(limit)


def write(path: Path, content: bytes) -> None:
    """Write a file atomically into a folder, which is created if necessary.

    Raises:
        BadInput: if the folder is a symbolic link.
    """
    with Folder(path.parent) as folder:
        folder.write(path.name, content)


class Folder:
    """An open folder for writing files, created if necessary. A context manager.

    Args:
        path: the folder.
        within: its parent, if that is open, too.

    Raises:
        BadInput: if it is a symbolic link.
    """

    def __init__(self, path: Path, within: Folder | None = None) -> None:
        self.path = path
        self._descriptor: int | None = None
        name, descriptor = (str(path), None) if within is None else (within._place(path.name), within._descriptor)
        try:
            if within is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            if _BY_DESCRIPTOR:
                self._descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW, dir_fd=descriptor)
            else:
                refuse_link(path)
        except OSError:
            refuse_link(path)
            raise

    def _place(self, name: str) -> str:
        """Return the name of a file for a call that gets the descriptor."""
        return name if self._descriptor is not None else str(self.path / name)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def names(self) -> list[str]:
        """List the folder, sorted."""
        return sorted(os.listdir(self.path if self._descriptor is None else self._descriptor))

    def holds(self, name: str) -> bool:
        """Whether the folder has a regular file of that name."""
        try:
            about = os.stat(self._place(name), dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(about.st_mode)

    def write(self, name: str, content: bytes, keep: str | None = None) -> None:
        """Write a file atomically: even after a crash of the machine it has its new or its old content.

        If `keep` is given, the old file is renamed to it first; after a crash in between there is no file `name`.
        """
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        try:
            with open(self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and self.holds(name):
                self.move(name, self, keep)
            self.move(temporary, self, name)
            if self._descriptor is not None:  # make the renaming survive a crash of the machine
                os.fsync(self._descriptor)
        except BaseException as error:
            self.remove(temporary)
            if isinstance(error, OSError):
                error.filename = str(self.path / name)  # instead of the temporary name
            raise

    def append(self, name: str) -> TextIO:
        """Open a text file for appending, in UTF-8; it is created if necessary.

        Raises:
            BadInput: if it is a symbolic link, a hard link to a file elsewhere, or a pipe or device.
        """
        descriptor = self.open(name, os.O_WRONLY | os.O_APPEND)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace", newline="")

    def open(self, name: str, flags: int) -> int:
        """Open a regular file, created if necessary, and return its descriptor.

        Raises:
            BadInput: if it is a symbolic link, a hard link to a file elsewhere, or a pipe or device.
        """
        path = self.path / name
        try:
            descriptor = self._open(name, flags | os.O_CREAT | _NONBLOCK)  # a pipe must not block
        except OSError as error:
            refuse_link(path)
            error.filename = str(path)
            raise
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            os.close(descriptor)
            what = "a hard link" if stat.S_ISREG(about.st_mode) else "not a regular file"
            raise BadInput(f"{path} is {what}, and runs write only into their own directory: remove it")
        return descriptor

    def move(self, name: str, to: Folder, new_name: str | None = None) -> None:
        """Move a file to another open folder or another name, replacing an existing file."""
        source, target = self._place(name), to._place(new_name or name)
        os.replace(source, target, src_dir_fd=self._descriptor, dst_dir_fd=to._descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with suppress(OSError):
            os.unlink(self._place(name), dir_fd=self._descriptor)

    def remove_temporaries(self) -> None:
        """Remove incomplete files of a killed process. No other process may be writing here."""
        for name in self.names():
            if name.startswith(".") and name.endswith(".tmp"):
                self.remove(name)

    def _open(self, name: str, flags: int) -> int:
        if self._descriptor is None:
            refuse_link(self.path / name)
        return os.open(self._place(name), flags | _NOFOLLOW | _BINARY, 0o666, dir_fd=self._descriptor)
