"""Graphs that inductor has compiled before come from its cache on disk, if their code suits this process."""

import logging
import random

import pytest
import torch
from torch._dynamo.utils import counters
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compilation import backend


@pytest.fixture
def compile_again():
    """Compile a graph that no other process has; return whether it came from the cache."""
    weight, number = torch.nn.Parameter(torch.ones(4)), random.SystemRandom().random()

    def hits():
        x = torch.arange(12.0).view(3, 4)
        graph = make_fx(lambda x: [(x * weight * number).sum(0)])(x)
        before = counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"]
        with torch.no_grad():
            (result,) = backend.inductor(graph, [x], False)(x)
        torch.testing.assert_close(result, x.sum(0) * weight.detach() * number)
        after = counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"]
        return [now - then for now, then in zip(after, before, strict=True)]

    hits()
    hits.weight = weight
    return hits


def test_a_graph_is_compiled_once(compile_again):
    assert compile_again() == [1, 1]
    with torch.no_grad():
        compile_again.weight.mul_(2)  # an input, not part of the graph
    assert compile_again() == [1, 1]


def test_code_for_other_vector_instructions_has_another_key(monkeypatch):
    options = []
    monkeypatch.setattr(torch._inductor, "compile", lambda *args: options.append(args[2]))
    for capability in ("default", "avx2"):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        backend.inductor(None, [], False)
    assert [each["cpp.simdlen"] for each in options] == [0, 256 if torch.cpu._is_avx2_supported() else 0]


def test_code_for_another_number_of_threads_is_not_used(compile_again):
    torch.set_num_threads(2)
    try:
        assert compile_again() == [0, 0]
    finally:
        torch.set_num_threads(1)


def test_the_line_about_a_cuda_compiler_without_gpu_is_not_shown(monkeypatch, caplog):
    """Of torch's other lines, and of this one elsewhere, all are."""
    torch_log = logging.getLogger("torch.utils.cpp_extension")
    monkeypatch.setattr(torch_log, "propagate", True)

    def inductor(*_):
        torch_log.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local/cuda")
        torch_log.warning("a compiler is missing")

    monkeypatch.setattr(backend, "inductor", inductor)
    backend.Backend("inductor", None).compile(symbolic_trace(lambda x: x), [], False)
    torch_log.warning("No CUDA runtime is found")
    assert caplog.messages == ["a compiler is missing", "No CUDA runtime is found"]
