"""Traces Pyro programs once and compiles them: effect handlers and distributions run only while tracing."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from pyro_vae.compilation.backend import Backend, has_compiled
from pyro_vae.compilation.graph import Graph, NotCompiled, reason
from pyro_vae.compilation.kernels import OF_PROCESS, Kernels
from pyro_vae.programs.time_limit import seconds_left

COMPILE_SECONDS = 15.0
"""Approximate time to compile a process's first graphs; 2 s if this machine has compiled the same ones before."""

COMPILE_NEXT_SECONDS = 3.0
"""Approximate time to compile another graph."""

TRACE_SECONDS = 0.5
"""Time from which tracing pays even without compiling: it takes 0.2 s, and saves the time of Pyro and autograd."""

TRACEABLE = {"pyro_vae", "pyro", "torch", *sys.stdlib_module_names}
"""Packages whose code does not depend on anything that a trace misses, as users' own may."""

MAX_SIGNATURES = 64
"""Maximum number of graphs: a number that changes in every call would otherwise compile one per call."""


class Compiled:
    """A function of tensors that runs Pyro programs, as one compiled graph for each signature of its arguments.

    A signature consists of the shapes, strides, dtypes and devices of the tensors among the arguments, of the values of
    the other arguments, and of the training modes of the modules that run. The first call with a signature runs `fn`
    eagerly, which fills the param store. The second call traces `fn` while it runs. Later calls run the graph, without
    Pyro. No call runs twice, so random draws match eager execution, except for Bernoulli draws, which inductor computes
    from uniform ones. Parameters, buffers and other tensors outside the arguments are inputs of the graph, so updates
    in place, for example by an optimizer, take effect.

    `fn` must not depend on anything else that changes, such as the values of tensors, numbers outside its arguments, or
    random numbers not drawn by torch: the graph keeps the numbers it was traced with. Distributions check their
    arguments and values in the first call only. A function that cannot be traced or compiled runs eagerly, after one
    warning that names the line of the program and the reason. Signatures beyond `MAX_SIGNATURES` also run eagerly.

    Args:
        fn: returns tensors, possibly in tuples, lists and dicts. Tensors that it computes must not require gradients.
        backend: `inductor`, or another backend of Dynamo.
        after: returns the seconds that the calls of a signature must have taken before it is compiled. With the cost of
            compiling as the threshold, the total time is at most twice that of the better choice made in advance. A
            signature is traced after `TRACE_SECONDS` if its programs are `TRACEABLE`, and runs as traced until it is
            compiled.
        keep: whether results are needed after the next call. They are then copied, since a CUDA graph overwrites them.
        watch: whether to look for changes outside the arguments. In the 1st, 10th, 100th, ... call after the trace,
            `fn` runs eagerly, and its operations are compared with the traced ones. If they differ, the next call is
            traced again. If that differs, too, or if `fn` draws from Python's or NumPy's global generators, it runs
            eagerly from then on, after a warning that names the line. Results up to that call may use old values.
        kernels: chooses kernels for products of float32 matrices; None for torch's.

    Attributes:
        takes_new: whether new signatures get a graph; otherwise they run eagerly.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        backend: str = "inductor",
        after: Callable[[], float] = float,
        keep: bool = True,
        watch: bool = False,
        kernels: Kernels | None = OF_PROCESS,
    ) -> None:
        self.fn = fn
        self.backend = Backend(backend, kernels)
        self.after = after
        self.keep = keep
        self.watch = watch
        self.takes_new = True
        self._graphs: dict[Hashable, Graph | None] = {}
        self._modules: WeakSet[nn.Module] = WeakSet()
        self._warned: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return `fn(*args, **kwargs)`."""
        leaves, structure = tree_flatten((args, kwargs))
        signature = (structure, *(_signature(leaf) for leaf in leaves))
        key = (signature, self._modes())
        try:
            graph = self._graphs.get(key, _UNSEEN)
        except TypeError as error:  # unhashable values may change unnoticed
            self._warn(reason(error))
            return self.fn(*args, **kwargs)
        if graph is _UNSEEN and self.takes_new and len(self._graphs) >= MAX_SIGNATURES:
            self.takes_new = False
            self._warn(
                f"the arguments had {MAX_SIGNATURES} signatures, and further ones run eagerly: pass changing numbers "
                "as tensors, and use one batch shape"
            )
        if graph is None or (graph is _UNSEEN and not self.takes_new):
            return self.fn(*args, **kwargs)
        if graph is _UNSEEN or graph.is_stale():
            graph = self._graphs[key] = Graph(self.fn, leaves, structure, self.backend, self.keep, self.watch)
            graph.may_trace = all(_is_traceable(value) for value in (self.fn, *leaves))
        after = self.after()
        due = graph.spent is not None and graph.spent >= after and seconds_left() >= 2 * after  # else too late to pay
        started = time.perf_counter()
        if not due and (graph.spent is None or graph.spent < TRACE_SECONDS or not graph.may_trace):
            with _noting(self._modules):
                result = self.fn(*args, **kwargs)
            graph.spent = (graph.spent or 0.0) + time.perf_counter() - started
            del self._graphs[key]
            self._graphs[signature, self._modes()] = graph  # includes modules first seen in this call
            return result
        try:
            result = graph(leaves, compile=due)
        except NotCompiled as error:
            if due:
                self._warn(str(error))
                self._graphs[key] = None  # do not try again
            else:
                graph.may_trace = False  # a warning follows if it would have been compiled
            return self.fn(*args, **kwargs)
        graph.spent += time.perf_counter() - started
        if graph.frozen:
            self._warn(graph.frozen)
            self._graphs = dict.fromkeys(self._graphs)  # any of them may contain the changed value
            self.takes_new = False
        return result

    def _modes(self) -> Hashable:
        return frozenset(id(module) for module in self._modules if not module.training)

    def take_only(self, run: Callable[[], Any]) -> None:
        """Compile for the signatures of the calls that `run` makes; calls with others run uncompiled from now on."""
        for _ in range(3):  # eager, traced, compiled
            run()
        self.takes_new = False

    def postpone(self) -> None:
        """Run graphs as traced until `proceed`; `backend.postponed` lists them."""
        self.backend.postponed = []

    def proceed(self) -> None:
        """Compile each graph, including those that have run as traced, in its next call."""
        self.backend.postponed = None
        for graph in self._graphs.values():
            if graph is not None:
                graph.compile_again()

    def _warn(self, reason: str) -> None:
        text = f"not compiled: {reason}"
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=3)


def compiled(fn: Callable[..., Any], setting: bool | str) -> Callable[..., Any]:
    """Return `fn` compiled (True), unchanged (False), or compiled once its calls have cost as much (`auto`)."""
    if setting is False:
        return fn
    return Compiled(fn) if setting is True else Compiled(fn, after=compile_seconds)


def compile_seconds() -> float:
    """Return the approximate time that compiling a graph takes now."""
    return COMPILE_NEXT_SECONDS if has_compiled() else COMPILE_SECONDS


TakeOnly = Callable[[Compiled, Callable[[], None]], None]
"""`Compiled.take_only`, or `Background.take_only`, which compiles later."""

_UNSEEN: Any = object()


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    owner = getattr(value, "__self__", value)  # the object of a bound method
    return type(value), value, owner.training if isinstance(owner, nn.Module) else None


def _is_traceable(value: Any) -> bool:
    """Return whether a program, or another argument, consists of code in `TRACEABLE` only."""
    if isinstance(value, partial):
        return all(map(_is_traceable, (value.func, *value.args, *value.keywords.values())))
    owner = getattr(value, "__self__", value)
    if not isinstance(owner, nn.Module):
        return _is_known(owner) if isinstance(owner, FunctionType) else all(map(_is_known, type(owner).__mro__))
    return all(
        all(map(_is_known, type(module).__mro__)) and not (module._forward_hooks or module._forward_pre_hooks)
        for module in owner.modules()
    )


def _is_known(definition: Any) -> bool:
    return (definition.__module__ or "").partition(".")[0] in TRACEABLE  # None for what `exec` defines


@contextmanager
def _noting(modules: WeakSet[nn.Module]) -> Iterator[None]:
    """Add the modules that run in this context to `modules`."""
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: modules.add(module))
    try:
        yield
    finally:
        handle.remove()
