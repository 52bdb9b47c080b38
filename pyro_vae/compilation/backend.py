"""Compiles traced graphs."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule

from pyro_vae.compilation import functions
from pyro_vae.compilation.kernels import Kernels
from pyro_vae.compilation.products import split_biases
from pyro_vae.compilation.vectors import vector_width
from pyro_vae.programs.sleef import touch_constants


@contextmanager
def no_line_about_cuda() -> Iterator[None]:
    """Drop the line that torch logs on machines with a CUDA compiler but no GPU: it says nothing of a CPU's graph."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.addFilter(_is_worth_reading)
    try:
        yield
    finally:
        logger.removeFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("No CUDA runtime is found")


_has_compiled = False


def has_compiled() -> bool:
    """Return whether this process has compiled a graph, so that inductor is loaded and set up."""
    return _has_compiled


@dataclass
class Backend:
    """Compiles graphs without Dynamo, whose guards would repeat the checks of the signature.

    Attributes:
        name: `inductor`, or another backend of Dynamo.
        kernels: chooses kernels for products of float32 matrices, with inductor; None for torch's.
        postponed: if it is a list, graphs are not compiled but listed here, with tensors like their arguments.
    """

    name: str
    kernels: Kernels | None
    postponed: list[tuple[GraphModule, list[Any]]] | None = None

    @no_line_about_cuda()
    def compile(self, graph: GraphModule, tensors: list[Any], on_gpu: bool) -> Callable[..., Any]:
        """Return a function of tensors like these; on a GPU, one of CUDA graphs."""
        touch_constants()
        if self.postponed is not None:
            self.postponed.append((graph, tensors))
            return graph
        self.assign(graph)
        if self.name == "inductor":
            return inductor(graph, tensors, on_gpu)
        run: Callable[..., Any] = torch._dynamo.lookup_backend(self.name)(graph, tensors)
        return run

    def assign(self, graph: GraphModule) -> None:
        """Let the chosen kernels compute the products of a graph, and faster code its elementary functions."""
        if self.name != "inductor":
            return
        split_biases(graph)
        if self.kernels is not None:
            self.kernels.assign(graph)
        functions.replace(graph)


def inductor(graph: GraphModule, tensors: list[Any], on_gpu: bool) -> Callable[..., Any]:
    """Compile with inductor, which keeps graphs on disk: a later process loads them instead of compiling again.

    It caches only graphs whose inputs are fake tensors, as Dynamo's are. The key of its cache does not contain the
    vector instructions that the code was written for nor, before torch 2.14, the number of threads. Options are part
    of the key.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    global _has_compiled
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": on_gpu}
    if not on_gpu:
        options |= {"cpp.simdlen": vector_width(), "cpp.threads": torch.get_num_threads()}
    mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
    with tracing(TracingContext(mode)), warnings.catch_warnings():  # from torch about its own code
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        with mode:
            fakes: list[Any] = [like(tensor, tensor.device) for tensor in tensors]
        while True:
            try:
                compiled = torch._inductor.compile(graph, fakes, options)
                break
            except Exception as error:  # inductor wraps some
                if not _removed_unfinished_library(error):
                    raise
    _has_compiled = True
    return compiled


def _removed_unfinished_library(error: Exception) -> bool:
    """Remove the library that could not be loaded since an earlier process was killed while it wrote the cache.

    Inductor would try to load it forever.
    """
    found = re.search(r"(/.+?\.so): (file too short|invalid ELF header|cannot read file data)", str(error))
    if found is None or not Path(found[1]).is_file():
        return False
    Path(found[1]).unlink()
    return True


def like(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor like this one, on a device and without its values."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
