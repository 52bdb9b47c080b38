"""The position in training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyro_vae.compilation.kernels import KERNELS
from pyro_vae.errors import BadInput, shown


@dataclass
class State:
    """The position in training, all of which a checkpoint contains.

    Attributes:
        epoch: epochs done.
        step: optimizer steps done.
        best_elbo: best bound of the validation set so far, in nats per datapoint: the ELBO with its KL weighted as in
            the objective, or L_K of an IWAE, so that the best epoch is the best by the trained objective. NaN without
            a validation set.
        best_epoch: the epoch of `best_elbo`.
        seconds: time spent on epochs, including validation.
        skipped: steps skipped by `on_nan=skip`.
        compiled: whether steps are compiled; None if undecided. A resumed run keeps the decision, since compiled code
            rounds differently.
        compiled_at: steps before the first compiled one; None as long as another process compiles (`training.switch`).
        kernels: the kernels of compiled products of matrices (`compilation.kernels`), which a resumed run keeps, too;
            None for torch's only, as in checkpoints of earlier versions.
        threads: the number of threads chosen for the training (`training.threads`); None if it was not chosen.
    """

    epoch: int = 0
    step: int = 0
    best_elbo: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    skipped: int = 0
    compiled: bool | None = None
    compiled_at: int | None = None
    kernels: dict[str, str] | None = None
    threads: int | None = None

    @classmethod
    def of(cls, saved: dict[str, Any], path: Path) -> State:
        """Return the state saved in the checkpoint `path`.

        Raises:
            BadInput: if a name is unknown, or a value does not have the type that `asdict(state)` gives it.
        """
        kinds: dict[str, tuple[type, ...]] = {field.name: (type(field.default),) for field in fields(cls)}
        kinds |= {"compiled": (bool, type(None)), "best_elbo": (float,), "seconds": (float, int)}
        kinds |= {"kernels": (dict, type(None)), "threads": (int, type(None)), "compiled_at": (int, type(None))}
        for name, value in saved.items():
            if type(value) not in kinds.get(name, ()) or (type(value) is int and not 0 <= value < 2**53):
                raise BadInput(f"{path} was not written by pyro_vae: its state has {name}={shown(value)}")
        for name, kernel in (saved.get("kernels") or {}).items():
            if type(name) is not str or kernel not in KERNELS:
                raise BadInput(f"{path} was not written by pyro_vae: its state has the kernel {shown(kernel)}")
        if saved.get("compiled"):
            saved = {"compiled_at": 0, **saved}  # earlier versions compiled before the first step
        return cls(**saved)

    def decide(self, compiled: bool) -> None:
        """Set whether steps are compiled; if they were not so far, their kernels may be chosen."""
        if compiled and not self.compiled:
            self.kernels, self.compiled_at = {}, None
        self.compiled = compiled

    def end_epoch(
        self, elbo: float, log_likelihood: float, val_elbo: float, score: float, seconds: float
    ) -> tuple[dict[str, float], bool]:
        """Count an epoch and return its row of metrics, in nats per datapoint, and whether its `score` is the best yet.

        A score of NaN, without a validation set, always counts as the best.
        """
        self.epoch += 1
        self.seconds = seconds
        best = math.isnan(score) or score > self.best_elbo
        if best:
            self.best_elbo, self.best_epoch = score, self.epoch
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "train/elbo": elbo,
            "train/kl": log_likelihood - elbo,
            "train/log_likelihood": log_likelihood,
            "val/elbo": val_elbo,
            "seconds": round(seconds, 3),
        }
        return row, best
