"""One process at a time writes into a run directory.

The lock is the kernel's, on a file `.lock` in the directory: it ends with the process, however that ends. Windows and
some network file systems lack such locks: nothing is locked there.
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
    """A run directory that no other process writes into until `release`; made if need be.

    Args:
        run_dir: the directory.
        advice: what to do if another process is there, for the message.
        wait: seconds to wait for it to end.
        shared: others may have a shared claim to it as well.

    Raises:
        BadInput: if another process is there.
    """

    def __init__(self, run_dir: Path, advice: str, wait: float = 0.0, shared: bool = False) -> None:
        self.run_dir = run_dir
        self._descriptor: int | None = None
        deadline = time.monotonic() + wait
        while fcntl is not None and not self._take(shared):
            if time.monotonic() > deadline:
                raise BadInput(f"another run has just started in {run_dir}, or is going on there: {advice}")
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
        """Whether no other process shares the claim. If so, none can from then on; if not, it is shared as before."""
        if self._descriptor is None:
            return True
        if _lock(self._descriptor, shared=False):
            return _is_still(self._descriptor, self.run_dir / NAME)
        _lock(self._descriptor, shared=True)  # flock(2): a failed change of a lock's kind gives it up
        return False

    def release(self) -> None:
        """Let others in. The lock's file goes, unless they use it."""
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


if hasattr(os, "register_at_fork"):  # processes that load data would keep the locks of a killed parent
    os.register_at_fork(after_in_child=_leave_to_parent)

of_command: list[Claim] = []
"""What a command has claimed before its task began."""


@contextmanager
def alone_in(run_dir: Path, advice: str, wait: float = 0.0) -> Iterator[None]:
    """Within, no other process writes into `run_dir`. A directory made for this that stays empty is removed.

    Raises:
        BadInput: if one does.
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
    """Whether the file has this name, and not one that a process made after removing the one before."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
