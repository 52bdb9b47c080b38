"""Errors raised by a user's own classes, translated into one line that names them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae.errors import BadInput, FailedRun, one_line
from pyro_vae.errors.memory import raise_out_of_memory


@contextmanager
def own_code(doing: str, **parts: object) -> Iterator[None]:
    """Name the user's own classes in whatever error their code raises. Errors of the built-in classes pass.

    Args:
        doing: what fails, such as `log p(x)`.
        **parts: objects or classes by their axis, as in `guide=vae.posterior`.

    Raises:
        BadInput: if the code raises anything and one of the objects is the user's; the error is its cause.
    """
    try:
        yield
    except (BadInput, FailedRun):
        raise
    except Exception as error:
        raise_out_of_memory(error)
        if not (names := [f"{axis}={_kind(part).__name__}" for axis, part in parts.items() if is_own(part)]):
            raise
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BadInput(f"{', '.join(names)}: {doing} failed with {reason}") from error


def is_own(part: object) -> bool:
    """Return whether a class, or the class of an object, comes from outside this package."""
    return not _kind(part).__module__.startswith("pyro_vae.")


def _kind(part: object) -> type:
    return part if isinstance(part, type) else type(part)
