"""Products of float32 matrices by oneDNN, as an operation for inductor.

torch computes them by MKL, whose code for AMD does not use AVX-512, and calls oneDNN only for lower precision. The C++
function that it calls is exported but has no Python name. A few lines of C++ call it; they need no header of torch and
compile in a second.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compilation.vectors import vector_width
from pyro_vae.errors import one_line

log = logging.getLogger(__name__)

NAME = "pyro_vae_product"
"""Name of the kernel among inductor's."""

_SYMBOL = "_ZN2at6native13mkldnn_matmulERKNS_6TensorES3_S3_ff"
"""at::native::mkldnn_matmul(a, b, result, beta, alpha): result = beta * result + alpha * a @ b."""
_SOURCE = r"""
#include <Python.h>
#include <cstdint>

// an at::Tensor is a pointer to a TensorImpl, which is a tensor's `_cdata` in Python
typedef void (*Product)(void* const&, void* const&, void* const&, float, float);

struct WithoutGIL {
    PyThreadState* state = PyEval_SaveThread();
    ~WithoutGIL() { PyEval_RestoreThread(state); }
};

extern "C" void kernel(int64_t product, int64_t a, int64_t b, int64_t result) {
    void *A = reinterpret_cast<void*>(a), *B = reinterpret_cast<void*>(b), *C = reinterpret_cast<void*>(result);
    WithoutGIL released;
    reinterpret_cast<Product>(product)(A, B, C, 0.0f, 1.0f);
}
"""

Kernel = Callable[..., Tensor]


def kernel() -> Kernel | None:
    """Return `kernel(a, b, out=result)`, or None, after a line in the log, if oneDNN cannot be called.

    It multiplies float32 matrices `[M, K]` and `[K, N]`, or batches of them, of any strides. Loading it registers
    `torch.ops.pyro_vae.product`, which inductor compiles to this call.
    """
    with _one_thread:  # an operation can be registered once
        return _kernel()


_one_thread = Lock()


@cache
def _kernel() -> Kernel | None:
    try:
        multiply = _load()
        a = torch.arange(6, dtype=torch.float32, device="cpu").view(2, 3)
        if not torch.equal(multiply(a, a.T, out=a.new_empty(2, 2)), a @ a.T):  # exact: small integers
            raise RuntimeError("its result is wrong")
        _register(multiply)
    except Exception as error:  # no compiler, another version of torch, ...
        log.info("torch's kernels compute all matrix products, since oneDNN cannot be called: %s", one_line(error))
        return None
    return multiply


def _load() -> Kernel:
    if not torch.backends.mkldnn.is_available() or platform.system() != "Linux":
        raise RuntimeError("this build of torch does not contain it")
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    address = ctypes.cast(getattr(library, _SYMBOL), ctypes.c_void_p).value
    vector_width()  # the compiler's options depend on it
    call = CppPythonBindingsCodeCache.load_pybinding(["int64_t"] * 4, _SOURCE)

    def multiply(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        call(address, a._cdata, b._cdata, out._cdata)
        return out

    return multiply


def _register(multiply: Kernel) -> None:
    """Define the operation, for eager execution, for tracing, and for inductor, which allocates the result."""
    from torch._inductor import ir
    from torch._inductor.lowering import register_lowering
    from torch._inductor.select_algorithm import ExternKernelChoice, realize_inputs

    global _library
    _library = torch.library.Library("pyro_vae", "DEF")
    _library.define("product(Tensor a, Tensor b) -> Tensor")

    def empty(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(*a.shape[:-1], b.shape[-1])

    _library.impl("product", empty, "Meta")
    _library.impl("product", lambda a, b: multiply(a, b, out=empty(a, b)), "CPU")
    operation = torch.ops.pyro_vae.product.default
    choice = ExternKernelChoice(multiply, name=NAME, op_overload=operation)

    @register_lowering(operation, type_promotion_kind=None)
    def lower(a: Any, b: Any) -> Any:
        size = [*a.get_size()[:-1], b.get_size()[-1]]
        layout = ir.FixedLayout(a.get_device(), a.get_dtype(), size)
        return choice.bind(realize_inputs(a, b), layout).output_node()


_library: Any = None
"""Keeps the operation registered."""
