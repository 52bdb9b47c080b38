"""Lists the contenders, without importing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from pyro_vae.benchmark.works import WORKS

ALL = tuple(WORKS)
PROGRAMS = tuple(name for name in ALL if name != "log_px")
"""Works of contenders that train Pyro's programs."""
TRAINING = tuple(name for name in PROGRAMS if name != "program")
USUAL = (*TRAINING, "log_px")
BF16 = "pyro_vae compiled bf16"
FLOOR = "GEMM floor"
NUMPYRO = "NumPyro"


@dataclass(frozen=True)
class Contender:
    """A library and a way to use it.

    Args:
        module: a module with a function `works(**options)`.
        options: arguments of `works`.
        works: names of the works that it supports.
        package: the package that must be installed.
        ours: whether it is this library.
        note: remark for readers of its times.
    """

    module: str
    options: dict[str, bool | str] = field(default_factory=dict)
    works: tuple[str, ...] = USUAL
    package: str | None = None
    ours: bool = False
    note: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or find_spec(self.package.lower()) is not None


_HERE = "pyro_vae.benchmark"
CONTENDERS = {
    "pyro_vae": Contender(f"{_HERE}.ours", ours=True),
    "pyro_vae compiled": Contender(f"{_HERE}.ours", {"compile": True}, ours=True),
    BF16: Contender(f"{_HERE}.ours", {"compile": True, "precision": "bf16-mixed"}, TRAINING, ours=True),
    "drop-in": Contender(
        f"{_HERE}.pyro_svi",
        {"elbo": "compiled"},
        PROGRAMS,
        ours=True,
        note="Pyro's programs and SVI with the ELBO and optimizer of this library",
    ),
    "Pyro": Contender(
        f"{_HERE}.pyro_svi",
        works=ALL,
        note="as in Pyro's VAE tutorial; its Rényi bound has one weight per batch, the other IWAEs have one per "
        "datapoint; log p(x) of 2 datapoints, one after the other",
    ),
    "Pyro JIT": Contender(f"{_HERE}.pyro_svi", {"elbo": "jit"}, ("step_100",)),
    "torch": Contender(f"{_HERE}.hand_written", note="written by hand for this model, without probabilistic programs"),
    "torch.compile": Contender(f"{_HERE}.hand_written", {"compile": True}),
    NUMPYRO: Contender(
        f"{_HERE}.numpyro_svi",
        works=ALL,
        package="NumPyro",
        note="runs all repetitions in one jitted loop, without returning to Python after each step",
    ),
    "pythae": Contender(
        f"{_HERE}.pythae_trainer", package="pythae", note="log p(x) of 2 datapoints, one after the other"
    ),
    FLOOR: Contender(
        f"{_HERE}.gemm", note="the matrix products alone, float32, each by the fastest kernel that torch contains"
    ),
}
