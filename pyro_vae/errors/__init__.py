"""Bad input: one clear line that names the value and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral
from types import MappingProxyType

MAX_INT = 2**32 - 1
"""Limit of numbers of steps, samples or rows, and of seeds: larger ones are mistakes that torch may not hold."""
MAX_WIDTH = 10**6
"""Limit of layer widths, latent dimensions and components: a square matrix of this size takes terabytes."""
NOT_LIKE_A_STRING = r"[-+.\d]*(e[-+]?)?\d+\.?|\[.*\]|[-+]?(nan|inf)|true|false|none|"
MAX_MESSAGE = 2_000
"""Characters of a message."""


_names: ContextVar[Mapping[str, str]] = ContextVar("_names", default=MappingProxyType({}))


@contextmanager
def in_section(group: str, names: Iterable[str]) -> Iterator[None]:
    """Within, errors call the parameters of a configured object by their keys: `rank=0` becomes `guide.rank=0`.

    Args:
        group: section of the configuration.
        names: the section's keys.
    """
    keys = "|".join(re.escape(str(name)) for name in names)
    try:
        yield
    except (BadInput, FailedRun) as error:
        # not a part of another key, of a path or of a word
        error.args = (re.sub(rf"(?<![\w./-])(?=(?:{keys})=)|^(?=(?:{keys}) )", f"{group}.", str(error)),)
        raise


@contextmanager
def called(names: Mapping[str, str]) -> Iterator[None]:
    """Within, messages call options by the names of a Python function's parameters.

    Args:
        names: keys of the configuration, and the parameters that set them.
    """
    token = _names.set(names)
    try:
        yield
    except (BadInput, FailedRun) as error:
        message = in_callers_names(str(error))
        if message == str(error):
            raise
        raise type(error)(message) from error
    finally:
        _names.reset(token)


def in_callers_names(message: str) -> str:
    """`message` with the names that `called` has given options."""
    for key, name in _names.get().items():
        message = re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w.])", name, message)
    return message


def printable(text: str) -> str:
    """`text` in one line, without characters that a terminal would obey: a stranger's file may hold them."""
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


class BadInput(ValueError):
    """The user's input cannot be used. The commands print its one line and exit with status 2."""

    def __init__(self, message: str = "") -> None:
        line = printable(message)
        super().__init__(line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 3]}...")


class Incompatible(BadInput):
    """Options do not go together.

    Attributes:
        reason: the message without its remedy, which other options may make incomplete.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason


class NoEvidence(BadInput):
    """log p(x) of this model says nothing, by whatever estimator."""


class FailedRun(RuntimeError):
    """The input was fine, the run was not (a NaN loss, say). The commands print its line and exit with 1."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def datapoints(n: int) -> str:
    """`n` datapoints, in words."""
    return f"{n} datapoint{'' if n == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """The message of another library's error as one line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def shown(value: object) -> str:
    """`value` in one line of at most 80 characters."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "(an integer of thousands of digits)"
    except Exception:  # it is the object's own code
        return f"(an object of type {type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."


def quoted(value: object) -> str:
    """`shown`, with quotes around a string that reads like another kind of value: '5' is not 5."""
    text = shown(value)
    return repr(text) if isinstance(value, str) and re.fullmatch(NOT_LIKE_A_STRING, text, re.IGNORECASE) else text


def positive_int(name: str, value: object, high: int = MAX_INT) -> int:
    """`value`, if it is an integer from 1 to `high`.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    return whole(name, value, 1, high)


def positive_ints(name: str, values: object, high: int = MAX_WIDTH) -> list[int]:
    """`values`, if they are a list of integers from 1 to `high`.

    Raises:
        BadInput: otherwise, naming `name` and the value.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise BadInput(f"{name}={quoted(values)} must be a list of integers, as in {name}=[64,64]")
    return [positive_int(name, value, high) for value in values]


def whole(name: str, value: object, low: int = 0, high: int = MAX_INT) -> int:
    """`value`, if it is an integer from `low` to `high`.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < low:
        raise BadInput(f"{name}={quoted(value)} must be an integer of at least {low}")
    if number > high:
        raise BadInput(f"{name}={shown(value)} must be at most {high}")
    return number


def positive(name: str, value: object) -> float:
    """`value` as a float, if it is a finite number above zero.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    number = _finite(value)
    if number is None or number <= 0:
        raise BadInput(f"{name}={quoted(value)} must be a finite number above 0")
    return number


def within(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float, if it is a finite number in [low, high].

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    number = _finite(value)
    if number is None:
        raise BadInput(f"{name}={quoted(value)} must be a finite number")
    if not low <= number <= high:
        limits = {"least": low, "most": high}
        bounds = " and ".join(f"at {side} {limit:g}" for side, limit in limits.items() if math.isfinite(limit))
        raise BadInput(f"{name}={shown(value)} must be {bounds}")
    return number


def _finite(value: object) -> float | None:
    """`value` as a float, if it is a number that a float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # of an integer
        return None
    return number if math.isfinite(number) else None


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        BadInput: otherwise, listing the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise BadInput(f"{name}={shown(value)} is unknown: choose one of {', '.join(choices)}")
    return str(value)


def true_false(name: str, value: object) -> bool:
    """`value`, if it is True or False.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(value, bool):
        raise BadInput(f"{name}={quoted(value)} must be true or false")
    return value


def true_false_auto(name: str, value: object) -> bool | str:
    """`value`, if it is True, False or `auto`.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(value, bool) and not (isinstance(value, str) and value == "auto"):
        raise BadInput(f"{name}={quoted(value)} must be true, false or auto")
    return value
