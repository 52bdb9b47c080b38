"""Compiles traced graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compilation.kernels import Kernels
from pyro_vae.programs.sleef import touch_constants


class Backend(NamedTuple):
    """Compiles graphs without Dynamo, whose guards would repeat the checks of the signature.

    Attributes:
        name: `inductor`, or another backend of Dynamo.
        kernels: chooses kernels for products of float32 matrices, with inductor; None for torch's.
    """

    name: str
    kernels: Kernels | None

    def compile(self, graph: GraphModule, tensors: list[Any], on_gpu: bool) -> Callable[..., list[Tensor]]:
        """Return a function of tensors like these; on a GPU, one of CUDA graphs."""
        touch_constants()
        if self.name == "inductor":
            if self.kernels is not None:
                self.kernels.assign(graph)
            options = {"fallback_random": True, "triton.cudagraphs": on_gpu}
            with warnings.catch_warnings():  # from torch about its own code
                warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
                run: Callable[..., Any] = torch._inductor.compile(graph, tensors, options)
        else:
            run = torch._dynamo.lookup_backend(self.name)(graph, tensors)
        return run
