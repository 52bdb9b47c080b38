"""The versions of torch that pyproject.toml allows, and the internals that compilation/ calls."""

import inspect
from importlib.metadata import version
from pathlib import Path

import torch
import torch._inductor
from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def torch_requirement():
    line = next(line for line in PYPROJECT.read_text().splitlines() if line.strip().startswith('"torch>='))
    return Requirement(line.split('"')[1])


def test_the_installed_torch_is_within_the_declared_bounds():
    specifier = torch_requirement().specifier
    assert specifier.contains(version("torch"), prereleases=True)
    assert any(part.operator == "<" for part in specifier)


def test_the_internals_that_we_call_exist():
    assert list(inspect.signature(torch._inductor.compile).parameters)[:3] == ["gm", "example_inputs", "options"]
    assert callable(torch._dynamo.lookup_backend)
    assert {"fallback_random", "triton.cudagraphs", "cpp.simdlen", "cpp.threads"} <= set(torch._inductor.list_options())
