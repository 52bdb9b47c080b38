from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyro
import pytest
import torch
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae.compilation import backend
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.guides import Diagonal, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.runs import checkpoint, metrics
from pyro_vae.vae import VAE

os.environ["OMP_NUM_THREADS"] = "1"  # for child processes: OpenMP threads of two processes spin on each other
torch.set_num_threads(1)


COLUMNS = [
    {"name": "a", "kind": "real"},
    {"name": "b", "kind": "count", "form": "integer", "family": "negative_binomial"},
    {"name": "c", "kind": "binary", "form": "integer", "categories": [0, 1]},
    {"name": "d", "kind": "categorical", "form": "text", "categories": ["x", "y", "z"]},
    {"name": "e", "kind": "ordinal", "form": "text", "categories": ["low", "mid", "high"]},
]
"""Of a table in which rows of 0 and 1 are valid."""
BINARY = {**COLUMNS[2], "name": "f"}


def as_override(value: Any) -> str:
    """Write plain containers as a value of a command's override."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {as_override(inner)}" for key, inner in value.items()) + "}"
    return "[" + ",".join(map(as_override, value)) + "]" if isinstance(value, list) else str(value)


def every(n: int, values: Iterable[Any], several: bool = False) -> list[Any]:
    """A test's parameter, or the tuples of its `several`: every n-th, from the first on; the others are slow."""
    return [
        v if i % n == 0 else pytest.param(*(v if several else (v,)), marks=pytest.mark.slow)
        for i, v in enumerate(values)
    ]


def graphs_of(function: Compiled) -> int:
    """Number of its signatures that run compiled."""
    return sum(graph is not None and graph.has_run for graph in function._graphs.values())


class Mine(Diagonal):
    """A guide that is not in conf/."""


def _read_once(read: Callable[..., Any]) -> Callable[..., Any]:
    """Let Hydra parse each file of conf/ once: that is half of the time of a small `fit`."""
    parsed: dict[Any, Any] = {}

    def load_config(self: FileConfigSource, config_path: str) -> Any:
        path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        if not os.path.exists(path):
            return read(self, config_path)
        key = path, os.stat(path).st_mtime_ns, config_path, self.provider, self.path
        if key not in parsed:
            parsed[key] = read(self, config_path)
        return deepcopy(parsed[key])

    return load_config


FileConfigSource.load_config = _read_once(FileConfigSource.load_config)


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    # compile=auto must not depend on how busy the machine is
    for name in ("COMPILE_SECONDS", "COMPILE_NEXT_SECONDS"):
        monkeypatch.setattr(f"pyro_vae.compilation.compiled.{name}", math.inf)


@pytest.fixture
def as_traced(monkeypatch):
    """No compiler: graphs run as they have been traced. Quick, and all but the compiler is as users have it."""
    monkeypatch.setattr(backend, "inductor", lambda graph, *_: graph)
    monkeypatch.setattr("pyro_vae.training.switch.in_background", lambda device: False)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass
class PPCA:
    """Probabilistic PCA as a VAE: x = W z + b + σ ε, in double precision, with all that is known of it."""

    vae: VAE
    W: Tensor
    b: Tensor
    sigma: float

    @property
    def evidence(self) -> MultivariateNormal:
        """p(x)."""
        return MultivariateNormal(self.b, self.W @ self.W.T + self.sigma**2 * torch.eye(len(self.b)).double())

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x)."""
        gain, covariance = self._posterior()
        return MultivariateNormal((x - self.b) @ gain.T, covariance)

    def _posterior(self) -> tuple[Tensor, Tensor]:
        M = self.W.T @ self.W + self.sigma**2 * torch.eye(self.W.shape[1]).double()
        return M.inverse() @ self.W.T, self.sigma**2 * M.inverse()

    def set_exact_guide(self, widen: float = 1.0, shift: float = 0.0) -> None:
        """Give the guide, which must be a FullCovariance on features x, the exact posterior.

        Or that with its scale multiplied by `widen` (bounded weights: a calibrated standard error), or with its
        mean `shift` standard deviations away.
        """
        gain, covariance = self._posterior()
        offset = shift * covariance.diagonal().sqrt()
        L = widen * torch.linalg.cholesky(covariance)
        q, d = self.vae.posterior, self.W.shape[1]
        rows, columns = torch.tril_indices(d, d, offset=-1)
        with torch.no_grad():
            q.loc_log_scale.weight.zero_()
            q.loc_log_scale.weight[:d] = gain
            q.loc_log_scale.bias[:d] = offset - gain @ self.b
            q.loc_log_scale.bias[d:] = L.diagonal().log()
            q.off_diagonal.weight.zero_()
            q.off_diagonal.bias.copy_(L[rows, columns] / q.off_diagonal_gain)


def make_ppca(guide: Callable[..., torch.nn.Module] = FullCovariance, D: int = 5, d: int = 2) -> PPCA:
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = VAE.build([D], d, MLP([]), StandardNormal, likelihood, guide).double()
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(D, d, generator=generator).double()
    W[:, 1:] = 0.5 * W[:, 1:] + W[:, :1]  # columns far from orthogonal: so are the posterior's axes
    W /= W.norm(dim=0)
    b = torch.randn(D, generator=generator).double()
    linear = vae.decoder[0]
    with torch.no_grad():
        linear.weight.copy_(W)
        linear.bias.copy_(b)
    return PPCA(vae, W, b, 0.5)


@pytest.fixture
def ppca() -> PPCA:
    return make_ppca()


@pytest.fixture
def small_vae() -> VAE:
    from pyro_vae.guides import Diagonal
    from pyro_vae.likelihoods import Bernoulli

    return VAE.build([6], 2, MLP([16]), StandardNormal, Bernoulli, Diagonal).double()


@dataclass
class Outcome:
    code: int
    out: str
    err: str


PRELOADED = [
    "matplotlib.figure", "PIL.Image", "pytest", "pyro_vae.runs.run", "pyro_vae.training.trainer", "torch._dynamo",
    "torch.utils.tensorboard",
]  # fmt: skip
"""Modules for `set_forkserver_preload`: without them, each child would import for seconds."""


def get_mode(hydra: Hydra, config_name: str, overrides: list[str]) -> Any:
    """Return the mode, as Hydra does, but do not compose the whole configuration to read it from there."""
    named = any(override.lstrip("+").startswith("hydra.mode=") for override in overrides)
    return true_mode(hydra, config_name, overrides) if named else None


true_mode = Hydra.get_mode


@pytest.fixture
def pictures():
    """For tests that look into the files: with this fixture, `command` renders its figures."""


def save_blank(figure: Figure, file: Path | BinaryIO, **settings: Any) -> None:
    """Save an empty picture. The rendering of figures takes half of a short run's time."""
    Image.new("L", (1, 1)).save(file, "PNG")


@pytest.fixture
def command(request, monkeypatch, capsys, tmp_path):
    """Run `python -m pyro_vae.COMMAND ARGUMENTS` in this process and in an empty folder.

    Figures are made, but saved as empty pictures unless the test has the fixture `pictures`.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hydra, "get_mode", get_mode)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", save_blank)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets, and pytest then restores
    monkeypatch.setattr("pyro_vae.runs.figures.DPI", COARSE)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # power does not fail; durability is tested in other processes

    def run(name: str, *arguments: str) -> Outcome:
        from importlib import import_module

        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        capsys.readouterr()
        code = 0
        try:
            import_module(f"pyro_vae.{name}").main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


COARSE = 30
"""Dots per inch of figures."""

# a run of a second: 200 binary vectors of 12 entries
SMALL = [
    "network.hidden=[16]", "latent_dim=2", "trainer.max_epochs=2", "data=array",
    "estimator=refined", "estimator.num_samples=20",  # quicker than auto
]  # fmt: skip


def write_small_data(path: Path) -> None:
    rng = np.random.default_rng(0)
    prototypes = rng.random((3, 12)) < 0.5
    flips = rng.random((200, 12)) < 0.1
    np.save(path, (prototypes[rng.integers(3, size=200)] ^ flips).astype(np.float32))


@pytest.fixture
def small_data(tmp_path) -> str:
    write_small_data(tmp_path / "binary.npy")
    return f"data.path={tmp_path / 'binary.npy'}"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run directory that tests copy."""
    from pyro_vae.commands import train

    folder = tmp_path_factory.mktemp("finished")
    write_small_data(folder / "binary.npy")
    arguments = [*SMALL, f"data.path={folder / 'binary.npy'}", f"hydra.run.dir={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setattr("pyro_vae.runs.figures.DPI", COARSE)
        pyro.clear_param_store()
        train.main()
    return folder / "run"


@pytest.fixture
def small_run(finished_run, tmp_path) -> Path:
    """A finished run directory."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def write_idx(folder, n_train=30, n_test=10):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, n in (("train", n_train), ("t10k", n_test)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        header = np.array([2051, n, 28, 28], dtype=">i4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([2049, n], dtype=">i4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + (np.arange(n) % 10).astype(np.uint8).tobytes())


def one_error_line(outcome, *parts):
    assert outcome.code == 2, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in lines[0]


def outcome(run_dir):
    """All that must be the same: checkpoints and metrics, but for the time they took."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in metrics.read(run_dir)]
    files = {}
    for name in ("last", "best"):
        content = checkpoint.load(run_dir / "checkpoints" / f"{name}.pt")
        content["state"].pop("seconds")
        files[name] = content
    return rows, files


def assert_same(found, expected, where="run"):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}/{i}")
    else:
        assert found == expected, where
