"""What bytes and other integers of the user's arrays stand for."""

from __future__ import annotations

from typing import NamedTuple

from pyro_vae.errors import one_of

INTEGERS = ("values", "counts", "levels")


class Units(NamedTuple):
    """Divisors of integers in arrays: of bytes, and of integers of other types."""

    of_bytes: int = 255
    of_integers: int = 1


def units_of(integers: str, num_levels: int = 256) -> Units:
    """Return the divisors for a kind of integers.

    Args:
        integers: `values`: as they are, but bytes are grey values 0..255, divided by 255; `counts`: as they are, bytes
            too; `levels`: k stands for the grid's value k / (num_levels − 1), and bytes are grey values.
        num_levels: number of levels.

    Raises:
        BadInput: if `integers` is none of these.

    Example:
        >>> units_of("levels", num_levels=5)
        Units(of_bytes=255, of_integers=4)
    """
    one_of("integers", integers, INTEGERS)
    if integers == "counts":
        return Units(of_bytes=1)
    return Units(of_integers=num_levels - 1) if integers == "levels" else Units()
