"""Checks that families of the user's own keep their contracts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput, shown
from pyro_vae.errors.own_code import own_code

DISTRIBUTION = "a Pyro distribution, as in pyro.distributions.Normal(loc, scale).to_event(1)"


def require(axis: str, family: object, contract: type) -> None:
    """Check that a family defines its contract's abstract methods, and the attributes declared without a value.

    Raises:
        BadInput: otherwise, naming what is missing and the class to derive from.
    """
    methods = [name for name, member in vars(contract).items() if getattr(member, "__isabstractmethod__", False)]
    declared = [name for name in inspect.get_annotations(contract) if not hasattr(contract, name)]
    missing = [name for name in (*methods, *declared) if not _defines(family, name)]
    if missing or not isinstance(family, contract):
        problem = f"does not define {', '.join(missing)}" if missing else f"is not a {contract.__name__}"
        raise BadInput(f"{axis}={type(family).__name__} {problem}: derive it from {_home(contract)}")


def made(axis: str, family: Any, contract: type, *args: Any, **kwargs: Any) -> Any:
    """Call a class, or a partial of one, and check the result with `require`.

    Raises:
        BadInput: if that fails.
    """
    if not callable(family) or isinstance(family, nn.Module):
        raise BadInput(f"{axis}={shown(family)} is not a class: give one derived from {_home(contract)}, or a partial")
    with own_code("its construction", **{axis: family}) if isinstance(family, type) else nullcontext():
        result = family(*args, **kwargs)
    require(axis, result, contract)
    return result


def _home(contract: type) -> str:
    room = contract.__module__.rpartition(".")[0]
    return f"{room if hasattr(sys.modules[room], contract.__name__) else contract.__module__}.{contract.__name__}"


def _defines(family: object, name: str) -> bool:
    member = getattr(type(family), name, None) or getattr(family, name, None)
    is_defined = member is not None and member is not nn.Module.forward
    return is_defined and not getattr(member, "__isabstractmethod__", False)


def require_returned(axis: str, family: object, method: str, value: object, kind: type, wanted: str = "") -> None:
    """Check the type of what a method of a family returns.

    Raises:
        BadInput: otherwise, with `wanted` or the type that is expected.
    """
    if not isinstance(value, kind):
        returned = "None" if value is None else f"a value of type {_full_name(type(value))}"
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        expected = wanted or f"{article} {kind.__name__}"
        raise BadInput(f"{axis}={type(family).__name__}: {method} returns {returned}, but must return {expected}")


def require_distribution(axis: str, family: object, value: Any, batch: bool | None, event_shape: Sequence[int]) -> None:
    """Check what a family returns for one datapoint.

    Args:
        axis: of the family, for the message.
        family: the object.
        value: what its `forward` returns.
        batch: whether its batch_shape must be [1] (True) or may be [] as well (False).
        event_shape: of one draw.

    Raises:
        BadInput: if `value` is not a Pyro distribution of these shapes.
    """
    require_returned(axis, family, "forward", value, TorchDistributionMixin, DISTRIBUTION)
    found, allowed = tuple(value.batch_shape), [(1,)] if batch else [(), (1,)]
    if found not in allowed or tuple(value.event_shape) != tuple(event_shape):
        shapes = "batch_shape {} and event_shape {}"
        other = len(value.event_shape) != len(event_shape)
        remedy = ": .to_event(n) turns n batch dimensions into event dimensions" if other else ""
        raise BadInput(
            f"{axis}={type(family).__name__}: forward returns {shapes.format(list(found), list(value.event_shape))} "
            f"for one datapoint, but must return {shapes.format(list(allowed[0]), list(event_shape))}{remedy}"
        )


@torch.no_grad()
def require_decoder(network: object, decoder: nn.Module, shape: Sequence[int], *inputs: Tensor) -> None:
    """Check the output of a network's decoder for inputs z `[2, 1, latent_dim]` and, maybe, a context.

    Args:
        network: the family.
        decoder: made by it, in evaluation mode.
        shape: of the likelihood's parameters.
        *inputs: of the decoder.

    Raises:
        BadInput: if it fails, or has another shape than `[2, 1, *shape]`.
    """
    with own_code("decoder(...) of z [..., latent_dim]", network=network):
        h = decoder(*inputs)
    require_returned("network", network, "decoder(...)(z)", h, Tensor)
    expected = [*inputs[0].shape[:-1], *shape]
    if list(h.shape) != expected:
        raise BadInput(
            f"network={type(network).__name__}: its decoder maps z {list(inputs[0].shape)} to {list(h.shape)}, but "
            f"must map it to {expected}, the leading dimensions and param_shape"
        )


def _full_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
