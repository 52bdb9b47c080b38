"""Options that are real numbers from a range."""

from __future__ import annotations

import math

from pyro_vae.errors import BadInput


def within(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a float, if it is a finite number in [low, high].

    Raises:
        BadInput: otherwise, naming `name` and `value`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{name}={value} must be a finite number")
    if not low <= value <= high:
        raise BadInput(
            f"{name}={value} must be at least {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        )
    return float(value)
