"""Bad input: one clear line that names the value and the fix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral


class BadInput(ValueError):
    """The user's input cannot be used. The commands print its one line and exit with status 2."""


class NoEvidence(BadInput):
    """log p(x) of this model says nothing, by whatever estimator."""


class FailedRun(RuntimeError):
    """The input was fine, the run was not (a NaN loss, say). The commands print its line and exit with 1."""


def datapoints(n: int) -> str:
    """`n` datapoints, in words."""
    return f"{n} datapoint{'' if n == 1 else 's'}"


def one_line(error: BaseException) -> str:
    """The message of another library's error as one line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def positive_int(name: str, value: object) -> int:
    """`value`, if it is a whole number of at least 1.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    return whole(name, value, low=1)


def positive_ints(name: str, values: object) -> list[int]:
    """`values`, if they are a list of whole numbers of at least 1.

    Raises:
        BadInput: otherwise, naming `name` and the value.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise BadInput(f"{name}={values} must be a list of whole numbers, as in {name}=[64,64]")
    return [positive_int(name, value) for value in values]


def whole(name: str, value: object, low: int = 0) -> int:
    """`value`, if it is a whole number of at least `low`.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise BadInput(f"{name}={value} must be a whole number of at least {low}")
    return int(value)


def positive(name: str, value: object) -> float:
    """`value` as a float, if it is a finite number above zero.

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
        raise BadInput(f"{name}={value} must be a finite number above 0")
    return float(value)


def within(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float, if it is a finite number in [low, high].

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{name}={value} must be a finite number")
    if not low <= value <= high:
        limits = {"least": low, "most": high}
        bounds = " and ".join(f"at {side} {limit:g}" for side, limit in limits.items() if math.isfinite(limit))
        raise BadInput(f"{name}={value} must be {bounds}")
    return float(value)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        BadInput: otherwise, listing the choices.
    """
    if value not in choices:
        raise BadInput(f"{name}={value} is unknown: choose one of {', '.join(choices)}")
    return str(value)


def true_false(name: str, value: object) -> bool:
    """`value`, if it is True or False.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(value, bool):
        raise BadInput(f"{name}={value} must be true or false")
    return value


def true_false_auto(name: str, value: object) -> bool | str:
    """`value`, if it is True, False or `auto`.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(value, bool) and value != "auto":
        raise BadInput(f"{name}={value} must be true, false or auto")
    return value
