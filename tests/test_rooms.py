"""The layout of the package: few names at the top, small files, imports that go downwards only."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pyro_vae"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = [
    "errors", "parallel", "data", "programs", "distributions", "networks", "priors", "likelihoods", "missingness",
    "guides", "objectives", "compilation", "marginal", "analysis", "vae", "training", "em", "runs", "api", "sklearn",
    "commands", "benchmark", "train", "evaluate", "compare", "score", "search", "__init__", "__main__",
]  # fmt: skip
"""From the bottom to the top: a room imports those before it only."""
MAX_LINES = 300


def name_of(path: Path) -> str:
    return ".".join(("pyro_vae", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path) for path in FILES}


def imports(source: str) -> set[str]:
    """Modules of this package that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES | ({node.module} if inner - MODULES else set())
    return found & MODULES


GRAPH = {name_of(path): imports(path.read_text()) for path in FILES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_the_package_shows_few_names():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(names) <= 30
    assert {Path(name).stem for name in names} - {"py"} <= set(ROOMS)


def test_imports_within_functions_count():
    assert imports("def f():\n    from pyro_vae.data import split, nothing\n    import pyro_vae.vae") == {
        "pyro_vae.data.split", "pyro_vae.data", "pyro_vae.vae",
    }  # fmt: skip


def test_rooms_import_downwards_only():
    upwards = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


def test_files_are_short():
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}
