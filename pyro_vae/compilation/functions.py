"""Faster code for elementary functions in graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Proxy

LARGEST = 7.90531110763549805
"""tanh of larger numbers is 1 in float32."""
NUMERATOR = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def replace(graph: GraphModule) -> None:
    """Replace tanh of float32 numbers on a CPU, where torch calls a function for each vector: four times as fast."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default):
        value = node.meta["val"]
        if value.dtype == torch.float32 and value.device.type == "cpu":
            with graph.graph.inserting_before(node):
                result = tanh(Proxy(node.args[0]))
            node.replace_all_uses_with(result.node)
            graph.graph.erase_node(node)
    graph.recompile()


def tanh(x: Any) -> Any:
    """Return tanh(x) by the rational approximation of Eigen and XLA, with a relative error of 4e-7 at most."""
    y = torch.clamp(x, -LARGEST, LARGEST)
    square = y * y
    return y * (_polynomial(square, NUMERATOR) / _polynomial(square, DENOMINATOR))


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    first, second, *others = coefficients
    value = x * first + second
    for coefficient in others:
        value = value * x + coefficient
    return value
