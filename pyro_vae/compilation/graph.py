"""Traces the graph of a Pyro program during a run, compiles it, and compares it with later runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae.compilation.backend import Backend
from pyro_vae.compilation.frozen import Operation, OtherNoise, Record, difference
from pyro_vae.compilation.places import Places
from pyro_vae.compilation.without_values import WithoutValues, require_static_shapes
from pyro_vae.errors import one_line
from pyro_vae.programs.random_state import get_other_rng_state, get_rng_state, set_other_rng_state, set_rng_state
from pyro_vae.programs.session import one_thread


class NotCompiled(Exception):
    """A function cannot be compiled; the message gives the place and the reason."""


def reason(error: BaseException, place: str = "") -> str:
    """Return the error in one line, preceded by its place."""
    text = one_line(error).partition(" Trace Shapes:")[0]  # appended by Pyro
    if "aten._local_scalar_dense" in text:
        text = "the program uses the value of a tensor, as in `if x > 0` or `float(x)`: avoid data-dependent code"
    elif not isinstance(error, OtherNoise):
        text = f"{type(error).__name__}: {text}"
    return f"{place}: {text}" if place else text


class Graph:
    """The graph of one signature: the first call traces it, and the second compiles it, or the third if watched.

    Args:
        fn: function to trace.
        leaves: its arguments. Tensors are inputs of the graph, and other values are constants in it.
        structure: structure of the arguments.
        backend: compiles the graph.
        keep: whether to copy results that a CUDA graph would overwrite.
        watch: see `compiled.Compiled`.

    Attributes:
        frozen: the reason why the graph must not be used, once it is known.
        has_run: whether it has run compiled.
        spent: seconds spent in calls so far; None before the first.
        may_trace: whether it may run as traced before it pays to compile it.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        leaves: Sequence[Any],
        structure: TreeSpec,
        backend: Backend,
        keep: bool,
        watch: bool,
    ) -> None:
        self.fn = fn
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.arguments = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.structure = structure
        self.backend = backend
        self.keep = keep
        self.watch = watch
        self.spent: float | None = None
        self.may_trace = True
        self.frozen: str | None = None
        self.has_run = False
        self._traced: _Traced | None = None
        self._run: Callable[..., list[Tensor]] | None = None
        self._num_calls = 0
        self._next_look = 1
        self._asks = False

    def is_stale(self) -> bool:
        """Return whether parameters have been replaced, frozen, cast or moved since the trace."""
        return self._traced is not None and self._traced.is_stale()

    def compile_again(self) -> None:
        """Drop the compiled code."""
        self._run, self.has_run = None, False

    def __call__(self, leaves: Sequence[Any], compile: bool) -> Any:
        """Return the function's result; a graph that has not been compiled yet runs as traced unless `compile`.

        Raises:
            NotCompiled: if the call cannot be traced or the graph cannot be compiled; random states are then unchanged.
        """
        tensors = [leaves[i] for i in self.arguments]
        if self._traced is None:
            graph, call, result = self._noting(tensors, make_fx)
            self._traced = _Traced(graph, call)
            return result
        self._num_calls += 1
        if self.watch and self._num_calls >= self._next_look:
            return self._look(self._traced.call, tensors)
        return self._call(self._traced, tensors, compile)

    def _look(self, before: _Call, tensors: list[Tensor]) -> Any:
        """Run the function and compare its operations with the traced ones."""
        _, call, result = self._noting(tensors, make_fx if self._asks else _plainly)
        found = difference(before.operations, call.operations)
        if found and not self._asks:  # some programs behave differently while being traced
            self._asks = True  # trace the next call to find out
        else:
            self.frozen = found
            self._next_look *= 10
        return result

    def _call(self, traced: _Traced, tensors: list[Tensor], compile: bool) -> Any:
        on_gpu = traced.on_gpu or any(tensor.is_cuda for tensor in tensors)
        noise = None if self.has_run else get_rng_state()
        try:
            if am_i_wrapped():  # by SVI, for example, which collects the parameters
                for name in traced.call.params:
                    pyro.param(name)
            if on_gpu:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                if compile and self._run is None:
                    self._run = self.backend.compile(traced.graph, tensors, on_gpu)
                results = (self._run or traced.graph)(*tensors)
                computed = [result.clone() for result in results] if on_gpu and self.keep else results
        except Exception as error:
            if noise is None:
                raise
            set_rng_state(noise)
            raise NotCompiled(reason(error, Places().of_error(error))) from error
        self.has_run = self._run is not None
        return traced.call.fill(computed, tensors)

    def _noting(self, tensors: list[Tensor], how: Callable[..., Any]) -> tuple[Any, _Call, Any]:
        """Run the function and record the call.

        Args:
            tensors: the tensors among its arguments.
            how: wraps a function of these tensors, e.g. `make_fx`, which returns its graph.

        Returns:
            The result of the wrapped function, the record of the call, and the function's result.

        Raises:
            NotCompiled: if the function does something that a graph cannot represent.
        """
        results: list[Any] = []
        operations: list[Operation] = []

        def fn(*tensors: Tensor) -> list[Tensor]:
            leaves = list(self.constants)
            for i, tensor in zip(self.arguments, tensors, strict=True):
                leaves[i] = tensor
            args, kwargs = tree_unflatten(leaves, self.structure)
            with WithoutValues(), Record(tensors, places.now) if self.watch else nullcontext() as record:
                results.append(self.fn(*args, **kwargs))
            operations.extend(record.operations if record else ())
            return [value for value in tree_flatten(results[0])[0] if _is_computed(value)]

        # aliases, since tensors are identified by `id` here and two arguments may be the same tensor
        aliases = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        places = Places(until=fn.__code__)
        noise, others = get_rng_state(), get_other_rng_state()
        try:
            with _unchecked(), poutine.trace(param_only=True) as params, places:
                made = how(fn)(*aliases)
                if isinstance(made, GraphModule):
                    require_static_shapes(made)
        except Exception as error:
            set_rng_state(noise)  # undo the draws of the failed attempt
            set_other_rng_state(others)
            raise NotCompiled(reason(error, places.of_error(error))) from error
        sites: dict[str, Any] = dict(params.trace.nodes)
        store = dict(pyro.get_param_store().named_parameters())  # does not contain parameters local to modules
        values, structure = tree_flatten(results[0])
        index = {id(alias): _Argument(i) for i, alias in enumerate(aliases)}
        call = _Call(
            [_COMPUTED if _is_computed(value) else index.get(id(value), value) for value in values],
            structure,
            {name: store[name] for name in sites if name in store},
            operations,
        )
        return made, call, call.fill([value for value in values if _is_computed(value)], tensors)


@dataclass
class _Call:
    """Record of one call of the function.

    Attributes:
        known: for each value of the result, `_COMPUTED`, an `_Argument`, or a value that is the same in all calls.
        structure: structure of the result.
        params: parameters of the param store that it used, by name.
        operations: the operations it performed, if they are watched.
    """

    known: list[Any]
    structure: TreeSpec
    params: dict[str, Tensor]
    operations: list[Operation]

    def fill(self, computed: Sequence[Tensor], arguments: Sequence[Tensor]) -> Any:
        """Build the function's result from the computed values."""
        left = iter(computed)
        values = [
            next(left) if value is _COMPUTED else arguments[value.index] if isinstance(value, _Argument) else value
            for value in self.known
        ]
        return tree_unflatten(values, self.structure) if self.places is None else _filled(self.places, values)

    @cached_property
    def places(self) -> list[Any] | tuple[Any, ...] | None:
        """The result with the positions of its values, if it is a nest of lists and tuples."""
        nest = tree_unflatten(list(range(len(self.known))), self.structure)
        return nest if _is_nest(nest) else None


class _Traced:
    """A graph of tensors and the record of the traced call."""

    def __init__(self, graph: GraphModule, call: _Call) -> None:
        self.graph = graph
        self.call = call
        self.found = [*graph.parameters(), *graph.buffers()]
        self.kinds = [_kind(tensor) for tensor in self.found]
        self.on_gpu = any(tensor.is_cuda for tensor in self.found)

    def is_stale(self) -> bool:
        """See `Graph.is_stale`."""
        now = dict(pyro.get_param_store().named_parameters())
        changed = any(_kind(tensor) != before for tensor, before in zip(self.found, self.kinds, strict=True))
        return changed or any(now.get(name) is not value for name, value in self.call.params.items())


_COMPUTED: Any = object()


@dataclass(frozen=True)
class _Argument:
    """A result that is one of the arguments."""

    index: int


def _is_nest(part: Any) -> bool:
    return type(part) in (list, tuple) and all(type(inner) is int or _is_nest(inner) for inner in part)


def _filled(nest: Any, values: Sequence[Any]) -> Any:
    """Replace positions by values: `tree_unflatten` takes ten times as long."""
    return type(nest)([values[part] if type(part) is int else _filled(part, values) for part in nest])


def _plainly(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself: running it takes a tenth of the time of tracing."""
    return fn


def _is_computed(value: Any) -> bool:
    """Return whether a value of the result was computed, and is not a parameter."""
    return isinstance(value, Tensor) and not value.requires_grad


def _kind(tensor: Tensor) -> Hashable:
    return tensor.requires_grad, tensor.dtype, tensor.device


@contextmanager
def _unchecked() -> Iterator[None]:
    """Disable the checks of distributions, which read values, even with `validate_args=True`.

    `pyro.validation_enabled` alone is not enough: a distribution built while validation was enabled, such as the prior
    of a `PyroSample`, keeps its flag. The checks are global, so only one thread at a time may disable them: a second
    thread would save the disabled state and restore it.
    """
    owner: Any = Distribution

    def unchecked(self: Any, batch_shape: Any = (), event_shape: Any = (), validate_args: Any = None) -> None:
        init(self, torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    with one_thread():
        init, validate = owner.__init__, owner._validate_sample
        owner.__init__, owner._validate_sample = unchecked, lambda self, value: None
        try:
            with pyro.validation_enabled(False):
                yield
        finally:
            owner.__init__, owner._validate_sample = init, validate
