"""Errors with one clear line that names the value and the fix, and checks that raise them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from types import MappingProxyType

MAX_INT = 2**32 - 1
"""Limit of seeds and of numbers of steps, samples or rows; torch may not accept larger ones."""
MAX_WIDTH = 10**6
"""Limit of layer widths, latent dimensions and components: a square matrix of this size needs terabytes."""
NOT_LIKE_A_STRING = r"[-+.\d]*(e[-+]?)?\d+\.?|\[.*\]|[-+]?(nan|inf)|true|false|none|"
MAX_MESSAGE = 2_000
"""Limit of the characters in a message."""


_names: ContextVar[Mapping[str, str]] = ContextVar("_names", default=MappingProxyType({}))


@contextmanager
def in_section(group: str, names: Iterable[str]) -> Iterator[None]:
    """Prefix parameters in errors with a section of the configuration: `rank=0` becomes `guide.rank=0`.

    Args:
        group: the section, whose object raises the errors.
        names: keys of the section.
    """
    keys = "|".join(re.escape(str(name)) for name in names)
    try:
        yield
    except (BadInput, FailedRun) as error:
        # not within a word, a path or a complete key
        error.args = (re.sub(rf"(?<![\w./-])(?=(?:{keys})=)|^(?=(?:{keys}) )", f"{group}.", str(error)),)
        raise


@contextmanager
def called(names: Mapping[str, str]) -> Iterator[None]:
    """Name options in errors and warnings by the parameters of a Python function.

    Args:
        names: maps keys of the configuration to the parameters that set them.
    """
    token = _names.set(names)
    try:
        yield
    except (BadInput, FailedRun) as error:
        error.args = (in_callers_names(str(error)),)
        raise
    finally:
        _names.reset(token)


def in_callers_names(message: str) -> str:
    """Replace keys in `message` by the parameters in `called`."""
    for key, name in _names.get().items():
        message = re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w.])", name, message)
    return message


def printable(text: str) -> str:
    """Escape line breaks and control characters, which text from an untrusted file may hold."""
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


class BadInput(ValueError):
    """Input cannot be used. The commands print its one line and exit with status 2."""

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
    """log p(x) of this model is meaningless, with any estimator."""


class FailedRun(RuntimeError):
    """A run failed on valid input, e.g. with a NaN loss. The commands print its one line and exit with status 1."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over `error` and its causes, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def datapoints(n: int) -> str:
    """Write a number of datapoints in words."""
    return f"{n} datapoint{'' if n == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """Write another library's error in one line of at most 300 characters, without shapes and C++ frames."""
    text = re.split("Trace Shapes:|Exception raised from", str(error))[0]
    return (" ".join(text.split()) or type(error).__name__)[:300]


def shown(value: object) -> str:
    """Write `value` in one line of at most 80 characters."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return "(an integer of thousands of digits)"
    except Exception:  # raised by the object's own code
        return f"(an object of type {type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."


def quoted(value: object) -> str:
    """Write `value` as `shown`, with quotes around a string that looks like another type: '5' is not 5."""
    text = shown(value)
    return repr(text) if isinstance(value, str) and re.fullmatch(NOT_LIKE_A_STRING, text, re.IGNORECASE) else text


def positive_int(name: str, value: object, high: int = MAX_INT) -> int:
    """Return `value` if it is an integer from 1 to `high`.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    return integer(name, value, 1, high)


def positive_ints(name: str, values: object, high: int = MAX_WIDTH) -> list[int]:
    """Return `values` if they are a list of integers from 1 to `high`.

    Raises:
        BadInput: otherwise, naming `name` and the value.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise BadInput(f"{name}={quoted(values)} must be a list of integers, as in {name}=[64,64]")
    return [positive_int(name, value, high) for value in values]


def integer(name: str, value: object, low: int = 0, high: int = MAX_INT) -> int:
    """Return `value` if it is an integer from `low` to `high`.

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
    """Return `value` as a float if it is a finite number above 0.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    number = _finite(value)
    if number is None or number <= 0:
        raise BadInput(f"{name}={quoted(value)} must be a finite number above 0")
    return number


def within(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a float if it is a finite number in [low, high].

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


def share(name: str, value: object) -> float:
    """Return `value` as a number in [0, 1), such as the weight of one part of a mixture.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    number = _finite(value)
    if number is None or not 0 <= number < 1:
        raise BadInput(f"{name}={shown(value)} must be a number in [0, 1)")
    return number


def _finite(value: object) -> float | None:
    """Return `value` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers, too
        return None
    try:
        number = float(value)
    except OverflowError:  # a huge integer
        return None
    return number if math.isfinite(number) else None


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        BadInput: otherwise, listing the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise unknown(name, value, choices)
    return str(value)


def unknown(name: str, value: object, choices: Sequence[str]) -> BadInput:
    """Return the error of a value that is not one of `choices`, with the most similar one."""
    return BadInput(f"{name}={shown(value)} is unknown{meant(value, choices)}: choose one of {', '.join(choices)}")


def meant(value: object, choices: Iterable[str]) -> str:
    """Suggest the choice that is most similar to `value`, or nothing."""
    close = difflib.get_close_matches(shown(value), choices, n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _is_bool(value: object) -> bool:
    """Return whether a value is Python's or NumPy's True or False."""
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def true_false(name: str, value: object) -> bool:
    """Return `value` if it is True or False.

    Raises:
        BadInput: otherwise.
    """
    if not _is_bool(value):
        raise BadInput(f"{name}={quoted(value)} must be true or false")
    return bool(value)


def true_false_auto(name: str, value: object, *others: str) -> bool | str:
    """Return `value` if it is True, False, `auto` or one of `others`.

    Raises:
        BadInput: otherwise.
    """
    if _is_bool(value):
        return bool(value)
    if not isinstance(value, str) or value not in ("auto", *others):
        *first, last = "true", "false", "auto", *others
        raise BadInput(f"{name}={quoted(value)} must be {', '.join(first)} or {last}")
    return value
