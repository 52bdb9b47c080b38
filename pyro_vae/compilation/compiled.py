"""Pyro programs traced once and compiled: effect handlers and distributions run while tracing, never again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from pyro_vae.compilation.graph import Graph, NotCompiled, reason

COMPILE_SECONDS = 15.0
"""What compiling a graph takes, about; less where it has been done before."""

MAX_SIGNATURES = 64
"""How many get a graph: a number that changes from call to call would fill memory and time with them."""


class Compiled:
    """A function of tensors that runs Pyro programs, as one compiled graph for each signature of its arguments.

    A signature is the shapes, layouts, types and devices of the tensors among the arguments, and the values of the
    others, and which of the modules that run are in training mode. The first call with one runs `fn` as it is, which
    fills the param store; the second is traced as it runs; from the third on a graph runs, in which there is no Pyro.
    No call is made twice: the noise is that of the function as it is (but of Bernoulli draws, which inductor makes of
    uniform ones). Parameters, buffers and other tensors that `fn` finds outside its arguments are inputs of the graph:
    what is updated in place, as by an optimizer, counts.

    What `fn` does must not depend on anything else that changes: not on the values of tensors, nor on numbers outside
    its arguments, nor on random numbers that are not torch's: a graph never changes, and such numbers would stay what
    they were when it was traced. Distributions check their arguments and values in the first call only. What cannot be
    traced or compiled runs as it is, after one warning that names the line of the program and the reason; so does what
    comes after `MAX_SIGNATURES` of them.

    Args:
        fn: returns tensors, in tuples, lists and dicts if need be; those it has computed carry no gradient.
        backend: `inductor`, or another of Dynamo's.
        after: seconds that a signature's calls must have taken before it is compiled. Who waits until as much has been
            spent as compiling costs never takes twice as long as who knew how many calls would come.
        keep: whether results are still needed after the next call: a CUDA graph writes over them, so they are copied.
        watch: whether to look for changes outside the arguments. In the 1st, 10th, 100th, ... call after the trace,
            `fn` runs as it is, and its operations are compared with those traced. If they differ, the next call is
            traced again. If that differs, too, or if `fn` draws from Python's or NumPy's global generators, it runs as
            it is from then on, after a warning that names the line. Results up to that call may have used old values.

    Attributes:
        takes_new: whether signatures not met so far get a graph; else they run as they are.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        backend: str = "inductor",
        after: float = 0.0,
        keep: bool = True,
        watch: bool = False,
    ) -> None:
        self.fn = fn
        self.backend = backend
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
                f"{MAX_SIGNATURES} signatures of the arguments, any other runs as it is: give numbers that change "
                "as tensors, and batches one shape"
            )
        if graph is None or (graph is _UNSEEN and not self.takes_new):
            return self.fn(*args, **kwargs)
        if graph is _UNSEEN or graph.is_stale():
            graph = self._graphs[key] = Graph(self.fn, leaves, structure, self.backend, self.keep, self.watch)
        if graph.spent is None or graph.spent < self.after:
            started = time.perf_counter()
            with _noting(self._modules):
                result = self.fn(*args, **kwargs)
            graph.spent = (graph.spent or 0.0) + time.perf_counter() - started
            del self._graphs[key]
            self._graphs[signature, self._modes()] = graph  # of modules just met, too
            return result
        try:
            result = graph(leaves)
        except NotCompiled as error:
            self._warn(str(error))
            self._graphs[key] = None  # nor tried again
            return self.fn(*args, **kwargs)
        if graph.frozen:
            self._warn(graph.frozen)
            self._graphs = dict.fromkeys(self._graphs)  # what has changed may be part of any of them
            self.takes_new = False
        return result

    def _modes(self) -> Hashable:
        return frozenset(id(module) for module in self._modules if not module.training)

    def take_only(self, run: Callable[[], Any]) -> None:
        """Compile for the signatures of the calls that `run` makes; calls with others run uncompiled from now on."""
        for _ in range(3):  # as it is, traced, compiled
            run()
        self.takes_new = False

    def _warn(self, reason: str) -> None:
        text = f"not compiled: {reason}"
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=3)


def compiled(fn: Callable[..., Any], setting: bool | str) -> Callable[..., Any]:
    """Return `fn` compiled (True), unchanged (False), or compiled once its calls have cost as much (`auto`)."""
    if setting is False:
        return fn
    return Compiled(fn, after=0.0 if setting is True else COMPILE_SECONDS)


_UNSEEN: Any = object()


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    owner = getattr(value, "__self__", value)  # of a method
    return type(value), value, owner.training if isinstance(owner, nn.Module) else None


@contextmanager
def _noting(modules: WeakSet[nn.Module]) -> Iterator[None]:
    """Add the modules that run until exit."""
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: modules.add(module))
    try:
        yield
    finally:
        handle.remove()
