"""Detects values that a graph would freeze: differences between two calls, and random numbers not drawn by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae.programs.random_state import get_other_rng_state

REMEDY = "a compiled graph would not change: pass what changes between calls as a tensor argument"


class OtherNoise(RuntimeError):
    """The program draws random numbers from a generator other than torch's."""


@dataclass(frozen=True)
class Operation:
    """An operation on tensors.

    Attributes:
        name: name of the operation in torch.
        arguments: text that identifies each argument, such as a number or the result of another operation.
        outside: tensors among them that the program did not compute from its arguments.
        place: line of the program.
    """

    name: str
    arguments: list[str]
    outside: list[Tensor]
    place: str


class Record(TorchDispatchMode):
    """Records the operations of a program.

    Args:
        arguments: tensor arguments of the program.
        place: returns the current line of the program.

    Attributes:
        operations: the operations recorded so far.

    Raises:
        OtherNoise: at the first operation after the program has drawn from Python's or NumPy's global generator.
    """

    def __init__(self, arguments: Sequence[Tensor], place: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._names: Any = WeakIdKeyDictionary()
        self._names.update((tensor, f"argument {i}") for i, tensor in enumerate(arguments))
        self._calls = _Calls(place)

    def __enter__(self) -> Record:
        self._calls.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)  # type: ignore[no-untyped-call]
        self._calls.__exit__(exc_type, exc_value, traceback)  # type: ignore[no-untyped-call]
        if exc_type is None:
            self._calls.check()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        names = [self._names.get(leaf, "outside") if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        outside = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf not in self._names]
        result = func(*args, **(kwargs or {}))
        updated = [] if func is torch.ops.aten.lift_fresh.default else outside  # which is for `torch.tensor(...)`
        for i, leaf in enumerate(tree_leaves(result)):
            if isinstance(leaf, Tensor) and leaf not in self._names and not any(leaf is one for one in updated):
                self._names[leaf] = f"result {i} of {len(self.operations)}"
        self.operations.append(Operation(str(func), names, outside, self._calls.now))
        return result


class _Calls(TorchFunctionMode):
    """Keeps the place of the last call of a torch function; backward passes call none."""

    def __init__(self, place: Callable[[], str]) -> None:
        super().__init__()
        self.place = place
        self.now = ""
        self.before = _comparable(get_other_rng_state())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.check()
        self.now = self.place()
        return func(*args, **(kwargs or {}))

    def check(self) -> None:
        """Check that other generators have not been used since the start."""
        # compare once only: leaving a context calls torch, too
        before, self.before = self.before, _comparable(get_other_rng_state())
        for library, state in self.before.items():
            if state != before[library]:
                raise OtherNoise(
                    f"random numbers have been drawn from {library}, which a compiled graph would repeat: "
                    "draw them from torch, or pass them as a tensor argument"
                )


def _comparable(noise: dict[str, Any]) -> dict[str, Any]:
    """Return generator states in a form that `==` can compare: NumPy's hold arrays."""
    leaves = tree_leaves(noise["numpy.random"])
    return {**noise, "numpy.random": [leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]}


def difference(before: Sequence[Operation], now: Sequence[Operation]) -> str | None:
    """Describe the first difference between two records of a program and its place; None if they agree."""
    for old, new in zip_longest(before, now):
        if old is None or new is None or old.name != new.name or len(old.arguments) != len(new.arguments):
            what = "the program performs other operations than when it was traced"
        elif old.arguments != new.arguments:
            a, b = next((a, b) for a, b in zip(old.arguments, new.arguments, strict=True) if a != b)
            what = f"{new.name} gets {b}, and got {a} when it was traced"
        elif not all(map(_same, old.outside, new.outside)):
            what = "a tensor that is neither an argument nor computed from one has changed since the trace"
        else:
            continue
        place = (new or old).place
        return f"{place}: {what}; {REMEDY}" if place else f"{what}; {REMEDY}"
    return None


def _same(old: Tensor, new: Tensor) -> bool:
    """Return whether two tensors are one object, perhaps updated in place, or equal constants without gradients."""
    if old is new:
        return True
    if old.requires_grad or new.requires_grad or old.shape != new.shape or old.dtype != new.dtype:
        return False
    if old.device != new.device:
        return False
    return bool(((old == new) | ((old != old) & (new != new))).all())
