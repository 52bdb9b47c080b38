"""The products of float32 matrices in a graph: separates them from biases, finds, times and replaces them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pyro_vae.compilation.onednn import Kernel

SECONDS = 0.007
"""Time for the comparison of two kernels."""
MIN_SIZE = 2**19
"""Minimal M·N·K: oneDNN takes 10 µs to start, the time of a smaller product."""

aten = torch.ops.aten


class Layout(NamedTuple):
    """Shape and strides of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}:{','.join(map(str, self.strides))}"

    def random(self, generator: torch.Generator) -> Tensor:
        """Return a tensor of random numbers."""
        last = sum((n - 1) * stride for n, stride in zip(*self, strict=True))
        values = torch.randn(last + 1, generator=generator, dtype=torch.float32, device="cpu")
        return values.as_strided(*self)


@dataclass(frozen=True, order=True)
class Product:
    """A product of float32 matrices `[M, K]` and `[K, N]`, or of batches of them.

    Attributes:
        operation: `mm` or `bmm`.
        a: layout of the first operand.
        b: layout of the second operand.
    """

    operation: str
    a: Layout
    b: Layout

    def __str__(self) -> str:
        return f"{self.operation} {self.a} {self.b}"

    def gain(self, kernel: Kernel) -> float:
        """Return the time of torch's kernel on random numbers, in multiples of the time of another one."""
        generator = torch.Generator("cpu").manual_seed(0)
        a, b = self.a.random(generator), self.b.random(generator)
        out = torch.empty(*a.shape[:-1], b.shape[-1], dtype=torch.float32, device="cpu")
        calls = partial(getattr(torch, self.operation), a, b, out=out), partial(kernel, a, b, out=out)
        times: tuple[list[float], ...] = ([], [])
        end = math.inf
        with torch.no_grad():
            while len(times[0]) < 4 or time.perf_counter() < end:
                for call, taken in zip(calls, times, strict=True):  # by turns, so that other work slows down both
                    started = time.perf_counter()
                    call()
                    taken.append(time.perf_counter() - started)
                end = min(end, time.perf_counter() + SECONDS)  # from the second calls on
        usual, other = (min(taken[1:]) for taken in times)
        return usual / other


def split_biases(graph: GraphModule) -> None:
    """Add biases after the products of float32 matrices on a CPU, where inductor fuses the addition with what follows.

    torch fills the result with the bias before the product, which reads and writes it once more.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.addmm.default):
        bias, a, b = node.args
        value = node.meta["val"]
        if value.dtype == torch.float32 and value.device.type == "cpu" and not node.kwargs:  # these are factors
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(aten.mm.default, (a, b))
                opposite = graph.graph.call_function(aten.neg.default, (bias,))
                # inductor would turn a sum into addmm again
                result = graph.graph.call_function(aten.sub.Tensor, (product, opposite))
            product.meta, result.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(result)
            graph.graph.erase_node(node)
    graph.recompile()


def products(graph: GraphModule) -> dict[Node, Product]:
    """Return the products of a graph that another kernel may compute."""
    found = {}
    for node in graph.graph.nodes:
        if node.target in (aten.mm.default, aten.bmm.default):
            a, b = (operand.meta["val"] for operand in node.args)
            right = node.meta["val"].dtype == torch.float32 and a.device.type == "cpu"
            if right and math.prod(a.shape) * b.shape[-1] >= MIN_SIZE:
                layouts = (Layout(tuple(x.shape), x.stride()) for x in (a, b))
                found[node] = Product(node.target.__name__.partition(".")[0], *layouts)
    return found


def replace(graph: GraphModule, node: Any) -> None:
    """Let oneDNN compute a product."""
    with graph.graph.inserting_before(node):
        result = graph.graph.call_function(torch.ops.pyro_vae.product.default, node.args)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)
