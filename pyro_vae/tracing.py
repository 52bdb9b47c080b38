"""Pyro programs traced once and compiled: effect handlers and distributions run while tracing, never again."""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae.checkpoint import get_rng_state, set_rng_state
from pyro_vae.errors import one_line

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
    its arguments, nor on random numbers that are not torch's. What cannot be traced or compiled runs as it is, after
    one warning that names the reason; so does what comes after `MAX_SIGNATURES` of them.

    Args:
        fn: returns tensors, in tuples, lists and dicts if need be; those it has computed carry no gradient.
        backend: `inductor`, or another of Dynamo's.
        after: seconds that a signature's calls must have taken before it is compiled. Who waits until as much has been
            spent as compiling costs never takes twice as long as who knew how many calls would come.
        keep: whether results are still needed after the next call: a CUDA graph writes over them, so they are copied.

    Attributes:
        takes_new: whether signatures not met so far get a graph; else they run as they are.
    """

    def __init__(
        self, fn: Callable[..., Any], backend: str = "inductor", after: float = 0.0, keep: bool = True
    ) -> None:
        self.fn = fn
        self.backend = backend
        self.after = after
        self.keep = keep
        self.takes_new = True
        self._graphs: dict[Hashable, _Graph | None] = {}
        self._modules: WeakSet[nn.Module] = WeakSet()
        self._warned: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`fn(*args, **kwargs)`."""
        leaves, structure = tree_flatten((args, kwargs))
        signature = (structure, *(_signature(leaf) for leaf in leaves))
        key = (signature, self._modes())
        try:
            graph = self._graphs.get(key, _UNSEEN)
        except TypeError as error:  # what has no hash may change unseen
            self._warn(_where(error))
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
            graph = self._graphs[key] = _Graph(self.fn, leaves, structure, self.backend, self.keep)
        if graph.spent is None or graph.spent < self.after:
            started = time.perf_counter()
            with _noting(self._modules):
                result = self.fn(*args, **kwargs)
            graph.spent = (graph.spent or 0.0) + time.perf_counter() - started
            del self._graphs[key]
            self._graphs[signature, self._modes()] = graph  # of modules just met, too
            return result
        try:
            return graph(leaves)
        except _NotCompiled as error:
            self._warn(_where(error.__cause__))
            self._graphs[key] = None  # nor tried again
            return self.fn(*args, **kwargs)

    def _modes(self) -> Hashable:
        return frozenset(id(module) for module in self._modules if not module.training)

    def take_only(self, run: Callable[[], Any]) -> None:
        """Compile for the signatures of the calls that `run` makes; calls of any other run as they are henceforth."""
        for _ in range(3):  # as it is, traced, compiled
            run()
        self.takes_new = False

    def _warn(self, reason: str) -> None:
        text = f"not compiled: {reason}"
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=3)

    @property
    def num_graphs(self) -> int:
        """How many signatures are compiled."""
        return sum(graph is not None and graph.has_run for graph in self._graphs.values())


def compiled(fn: Callable[..., Any], setting: bool | str) -> Callable[..., Any]:
    """`fn` compiled at once (True), as it is (False), or compiled when it has cost as much as compiling (`auto`)."""
    if setting is False:
        return fn
    return Compiled(fn, after=0.0 if setting is True else COMPILE_SECONDS)


class _NotCompiled(Exception):
    """What its cause is has kept a function from being compiled."""


def _where(reason: BaseException | None) -> str:
    """What went wrong, and in which line of the program rather than of torch."""
    frames = traceback.extract_tb(reason.__traceback__ if reason else None)
    elsewhere = (os.path.dirname(torch.__file__), os.path.dirname(pyro.__file__), __file__)
    program = [frame for frame in frames if not frame.filename.startswith(elsewhere)]
    line = f"{program[-1].filename}:{program[-1].lineno}: " if program else ""
    return f"{line}{type(reason).__name__}: {one_line(reason or RuntimeError())}"


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    owner = getattr(value, "__self__", value)  # of a method
    return type(value), value, owner.training if isinstance(owner, nn.Module) else None


@contextmanager
def _noting(modules: WeakSet[nn.Module]) -> Iterator[None]:
    """Within, modules that run are added."""
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: modules.add(module))
    try:
        yield
    finally:
        handle.remove()


def _kind(tensor: Tensor) -> Hashable:
    return tensor.requires_grad, tensor.dtype, tensor.device


class _Graph:
    """The graph of one signature: traced by its first call, compiled by its second.

    Args:
        fn: what to trace.
        leaves: its arguments: tensors are inputs of the graph, all else is part of it.
        structure: of the arguments.
        backend: see `Compiled`.
        keep: whether to copy results that a CUDA graph would write over.
    """

    def __init__(
        self, fn: Callable[..., Any], leaves: Sequence[Any], structure: TreeSpec, backend: str, keep: bool
    ) -> None:
        self.fn = fn
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.arguments = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.structure = structure
        self.backend = backend
        self.keep = keep
        self.on_gpu = False
        self.spent: float | None = None
        self.params: dict[str, Tensor] = {}
        self.run: Callable[..., list[Tensor]] | None = None
        self.has_run = False

    def is_stale(self) -> bool:
        """Whether parameters are others than those that have been traced, or have been frozen, cast or moved since."""
        now = dict(pyro.get_param_store().named_parameters())
        changed = self.run is not None and any(
            _kind(tensor) != before for tensor, before in zip(self.found, self.kinds, strict=True)
        )
        return changed or any(now.get(name) is not value for name, value in self.params.items())

    def __call__(self, leaves: Sequence[Any]) -> Any:
        tensors = [leaves[i] for i in self.arguments]
        try:
            if self.run is None:
                return self._trace(tensors)
            if am_i_wrapped():  # by SVI, say, which asks what parameters there are
                for name in self.params:
                    pyro.param(name)
            if self.on_gpu:
                torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                if not self.has_run:
                    self.run = self._compile(tensors)
                results = self.run(*tensors)
                computed = [result.clone() for result in results] if self.on_gpu and self.keep else results
        except Exception as error:
            if self.has_run:
                raise
            raise _NotCompiled from error
        self.has_run = True
        return self._result(computed, tensors)

    def _trace(self, tensors: list[Tensor]) -> Any:
        """The result of this call, and the graph for all later ones."""
        results = []

        def fn(*tensors: Tensor) -> list[Tensor]:
            leaves = list(self.constants)
            for i, tensor in zip(self.arguments, tensors, strict=True):
                leaves[i] = tensor
            args, kwargs = tree_unflatten(leaves, self.structure)
            with _WithoutValues():
                results.append(self.fn(*args, **kwargs))
            return [value for value in tree_flatten(results[0])[0] if _is_computed(value)]

        # aliases, since tensors are known by identity here, and two of the arguments may be one
        aliases = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        noise = get_rng_state()
        try:
            with pyro.validation_enabled(False), poutine.trace(param_only=True) as params:
                graph = make_fx(fn)(*aliases)
        except Exception:
            set_rng_state(noise)  # the attempt has used up some
            raise
        sites: dict[str, Any] = dict(params.trace.nodes)
        store = dict(pyro.get_param_store().named_parameters())  # in which those that are local to modules are not
        self.params = {name: store[name] for name in sites if name in store}
        values, self.result = tree_flatten(results[0])
        index = {id(alias): _Argument(i) for i, alias in enumerate(aliases)}
        self.known = [_COMPUTED if _is_computed(value) else index.get(id(value), value) for value in values]
        self.run = graph
        self.found = [*graph.parameters(), *graph.buffers()]
        self.kinds = [_kind(tensor) for tensor in self.found]
        self.on_gpu = any(tensor.is_cuda for tensor in (*tensors, *self.found))
        return self._result([value for value in values if _is_computed(value)], tensors)

    def _compile(self, tensors: list[Any]) -> Callable[..., Any]:
        """What the backend makes of the graph: without Dynamo, whose guards ask again what the signature tells."""
        assert isinstance(self.run, GraphModule)
        if self.backend == "inductor":
            options = {"fallback_random": True, "triton.cudagraphs": self.on_gpu}
            with warnings.catch_warnings():  # of torch, about itself
                warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
                run: Callable[..., Any] = torch._inductor.compile(self.run, tensors, options)
        else:
            run = torch._dynamo.lookup_backend(self.backend)(self.run, tensors)
        return run

    def _result(self, computed: Sequence[Tensor], arguments: Sequence[Tensor]) -> Any:
        left = iter(computed)
        values = (next(left) if value is _COMPUTED else value for value in self.known)
        return tree_unflatten(
            [arguments[value.index] if isinstance(value, _Argument) else value for value in values], self.result
        )


_UNSEEN: Any = object()
_COMPUTED: Any = object()


@dataclass(frozen=True)
class _Argument:
    """A result that is one of the arguments."""

    index: int


def _is_computed(value: Any) -> bool:
    """Whether it is a result; parameters among the results are what they are."""
    return isinstance(value, Tensor) and not value.requires_grad


class _WithoutValues(TorchFunctionMode):
    """While tracing, what looks at values does without.

    `tensor.item()` is the detached tensor: Pyro's ELBOs only add and multiply what it returns. `one_hot` compares.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            return args[0].detach()
        if func is nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        raise ValueError("one_hot without num_classes depends on the values of its argument: give it")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def with_gradients(
    loss: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Callable[..., tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """A function of the same arguments: the loss, the parameters it depends on, and their gradients.

    Args:
        loss: returns a scalar, or a tuple of it and others that come along.
        context: in which both passes run.

    Returns:
        A function that returns the scalar and the others, the parameters and the gradients.
    """

    def run(*args: Any, **kwargs: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        with torch.enable_grad(), context():
            value = loss(*args, **kwargs)
            value, *others = value if isinstance(value, tuple) else (value,)
            parameters = _leaves(value)
            every = torch.autograd.grad(value, parameters, allow_unused=True) if parameters else ()
            found = [(p, g) for p, g in zip(parameters, every, strict=True) if g is not None]
        return [value.detach(), *others], [p for p, _ in found], [g for _, g in found]

    return run


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors at the ends of an autograd graph, in an order that is always the same."""
    found, seen, stack = [], set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and node.variable.requires_grad:
            found.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def owned(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Gradients to be changed in place: autograd may hold several in one piece of memory, or expand one number."""
    seen: set[int] = set()
    result = []
    for gradient in gradients:
        memory = gradient.untyped_storage().data_ptr()
        result.append(gradient.clone() if memory in seen else gradient.contiguous())
        seen.add(memory)
    return result
