"""Graphs that inductor has compiled before come from its cache on disk, if their code suits this process."""

import logging
import os
import random
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config, cpu_vec_isa
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compilation import backend
from pyro_vae.compilation.vectors import vector_width


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


@pytest.mark.parametrize("given", [None, True, False])
def test_checks_of_vector_instructions_are_left_out_unless_asked_for(monkeypatch, given):
    seen = []

    def pick_vec_isa():
        seen.append(config.cpp.vec_isa_ok)
        return cpu_vec_isa.VecAVX2()

    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", pick_vec_isa)
    with config.patch({"cpp.vec_isa_ok": given}):
        assert vector_width() == 256
        assert (seen, config.cpp.vec_isa_ok) == ([given is not False], given)


def test_the_width_is_that_of_instructions_that_torch_has_checked():
    expected = cpu_vec_isa.VecAVX512() if torch.cpu._is_avx512_supported() else cpu_vec_isa.VecAVX2()
    if not expected.check_build(cpu_vec_isa.VecISA._avx_code):
        pytest.skip("the compiler knows none of them")
    assert vector_width() == expected.bit_width()


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


COMPILE = """
import torch
from torch.fx import symbolic_trace
from pyro_vae.compilation.backend import inductor

torch.set_num_threads(1)
x = torch.linspace(0, 1, 8)
(y,) = inductor(symbolic_trace(lambda x: (x.sin() * 2 + x.cos(),)), [x], on_gpu=False)(x)
torch.testing.assert_close(y, x.sin() * 2 + x.cos())
"""


@pytest.mark.slow
def test_a_library_that_a_killed_process_left_unfinished_is_built_again(tmp_path):
    """Twice in another process: a process loads a library only once."""

    def run():
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)

    assert run().returncode == 0
    libraries = list(tmp_path.rglob("*.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    assert (outcome := run()).returncode == 0, outcome.stderr
    assert any(library.stat().st_size for library in libraries)
