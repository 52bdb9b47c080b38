"""Locks that let only one process write into a run directory.

The kernel locks a file `.lock` in the directory, until the process ends in whatever way. Windows and some network file
systems do not support such locks; there, nothing is locked.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_vae.errors import BadInput
from pyro_vae.runs.files import Folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Claim:
    """A claim to a run directory, created if necessary, until `release`.

    Args:
        run_dir: the directory.
        advice: advice for the message if another process has claimed it.
        wait: seconds to wait for that process to end.
        shared: share the claim with other shared ones.

    Raises:
        BadInput: if another process has claimed the directory.
    """

    def __init__(self, run_dir: Path, advice: str, wait: float = 0.0, shared: bool = False) -> None:
        self.run_dir = run_dir
        self._descriptor: int | None = None
        deadline = time.monotonic() + wait
        while fcntl is not None and not self._take(shared):
            if time.monotonic() > deadline:
                raise BadInput(f"another run is active in {run_dir}: {advice}")
            time.sleep(0.1)

    def _take(self, shared: bool) -> bool:
        with Folder(self.run_dir) as folder:
            descriptor = folder.open(NAME, os.O_RDWR)
        if _lock(descriptor, shared) and _is_still(descriptor, self.run_dir / NAME):
            self._descriptor = descriptor
            _open.add(descriptor)
            return True
        os.close(descriptor)
        return False

    def is_alone(self) -> bool:
        """Whether no other process shares the claim; if so, the claim becomes exclusive."""
        if self._descriptor is None:
            return True
        if _lock(self._descriptor, shared=False):
            return _is_still(self._descriptor, self.run_dir / NAME)
        _lock(self._descriptor, shared=True)  # flock(2): a failed conversion loses the lock
        return False

    def release(self) -> None:
        """Release the claim, and remove the lock's file unless others use it."""
        if self._descriptor is not None:
            if self.is_alone():
                with suppress(OSError):
                    (self.run_dir / NAME).unlink()
            _open.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


_open: set[int] = set()


def _leave_to_parent() -> None:
    while _open:
        os.close(_open.pop())


if hasattr(os, "register_at_fork"):  # data-loading workers would hold the locks of a killed parent
    os.register_at_fork(after_in_child=_leave_to_parent)

of_command: list[Claim] = []
"""Claims of the running command, made before its task."""


@contextmanager
def alone_in(run_dir: Path, advice: str, wait: float = 0.0) -> Iterator[None]:
    """Claim `run_dir` in this context. If it was created for that and is still empty afterwards, it is removed.

    Raises:
        BadInput: if another process has claimed it.
    """
    if any(os.path.realpath(claim.run_dir) == os.path.realpath(run_dir) for claim in of_command):
        yield
        return
    is_new = not run_dir.exists()
    claim = Claim(run_dir, advice, wait)
    try:
        yield
    finally:
        claim.release()
        if is_new:
            with suppress(OSError):  # not empty
                run_dir.rmdir()


def _lock(descriptor: int, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`, not removed and replaced by another process."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
