"""Results that can be read like a dictionary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value", covariant=True)


class ByName(Mapping[str, Value]):
    """Lets the fields of a dataclass be read by name too, as in `parts["elbo"]` or `parts.items()`."""

    def __getitem__(self, name: str) -> Value:
        value: Value = vars(self)[name]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))
