"""Who is timed. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from pyro_vae.benchmark.works import WORKS

TRAINING = tuple(name for name in WORKS if name != "log_px")
BF16 = "pyro_vae compiled bf16"
FLOOR = "GEMM floor"


@dataclass(frozen=True)
class Contender:
    """A library, used in one way.

    Args:
        module: with `works(**options)`.
        options: of that.
        works: those it does.
        package: what must be installed for it.
        ours: whether it is this library.
        note: what a reader of its times should know.
    """

    module: str
    options: dict[str, bool | str] = field(default_factory=dict)
    works: tuple[str, ...] = tuple(WORKS)
    package: str | None = None
    ours: bool = False
    note: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether its package is."""
        return self.package is None or find_spec(self.package.lower()) is not None


_HERE = "pyro_vae.benchmark"
CONTENDERS = {
    "pyro_vae": Contender(f"{_HERE}.ours", ours=True),
    "pyro_vae compiled": Contender(f"{_HERE}.ours", {"compile": True}, ours=True),
    BF16: Contender(f"{_HERE}.ours", {"compile": True, "precision": "bf16-mixed"}, TRAINING, ours=True),
    "drop-in": Contender(
        f"{_HERE}.pyro_svi",
        {"elbo": "compiled"},
        TRAINING,
        ours=True,
        note="the programs and the SVI of Pyro, with the ELBO and the optimizer of this library",
    ),
    "Pyro": Contender(
        f"{_HERE}.pyro_svi",
        note="as in Pyro's VAE tutorial; its Rényi bound has one weight for the whole batch, the other IWAEs one a "
        "datapoint; log p(x) of 2 datapoints, one after the other",
    ),
    "Pyro JIT": Contender(f"{_HERE}.pyro_svi", {"elbo": "jit"}, ("step_100",)),
    "torch": Contender(f"{_HERE}.hand_written", note="written by hand for this model, no probabilistic programs"),
    "torch.compile": Contender(f"{_HERE}.hand_written", {"compile": True}),
    "NumPyro": Contender(
        f"{_HERE}.numpyro_svi",
        package="NumPyro",
        note="all repetitions in one jitted loop, without returning to Python after each step",
    ),
    "pythae": Contender(
        f"{_HERE}.pythae_trainer", package="pythae", note="log p(x) of 2 datapoints, one after the other, as it does"
    ),
    FLOOR: Contender(f"{_HERE}.gemm", note="the matrix products alone, float32"),
}
