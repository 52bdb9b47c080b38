"""Errors that Pyro programs raise, in one line that names the site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyro_vae.errors import BadInput, one_line
from pyro_vae.errors.memory import raise_out_of_memory

SHAPES = "Trace Shapes:"
"""Pyro adds the shapes of all sites so far to the errors of programs."""

OF_VALUES = r"Expected (parameter|value argument) |linalg\."
"""Messages of torch about the arguments of a distribution, or about a matrix: other latents might pass."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Translate errors that a program raises, perhaps only for some values of its latents.

    Raises:
        BadInput: in place of such an error, with the name of the site.
    """
    try:
        yield
    except BadInput:
        raise
    except (ValueError, RuntimeError) as error:
        if SHAPES in str(error):
            raise_out_of_memory(error)
            raise BadInput(line_about(error)) from error
        raise


def is_about_values(error: Exception) -> bool:
    """Return whether an error may be due to the values of latents and data, not to shapes."""
    return re.search(OF_VALUES, str(error)) is not None


def line_about(error: Exception) -> str:
    """Name the site at which a program raised an error, or the last one before, and the fix."""
    remedy = (
        "give x, all parameters and all new tensors the same dtype, e.g. with x.new_zeros"
        if "dtype" in str(error) or "scalar type" in str(error)
        else "it must run for all values of its latents and of x, e.g. with a scale clamped by clamp_min; "
        "validate_args=False leaves arguments unchecked"
    )
    reason = re.sub(r"^Error while .*? at site '.*?': |, but found invalid values.*", "", one_line(error))
    return f"the model or guide fails {_place(str(error))} ({reason}): {remedy}"


def _place(message: str) -> str:
    if found := re.search(r"at site '(.+?)'", message):
        return f"at site {found[1]}"
    _, _, shapes = message.partition(SHAPES)
    *_, last = ["", *re.findall(r"^ *(\S+) dist\b", shapes, re.MULTILINE)]
    return f"after site {last}" if last else "before its first site"
