"""The SVI loop."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae.compilation.break_even import pays_back, seconds
from pyro_vae.data import Dataset
from pyro_vae.data.split import Batch
from pyro_vae.errors import (
    BadInput,
    FailedRun,
    one_line,
    one_of,
    positive,
    positive_int,
    shown,
    true_false,
    true_false_auto,
)
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.parallel import collectives, environment
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import Epochs, beside_bar, shows_bars
from pyro_vae.programs.random_state import fork_rng, seeded
from pyro_vae.training.nonfinite import NotFinite, offending_site
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.precision import is_fast
from pyro_vae.training.svi import PRECISIONS, SVI
from pyro_vae.training.validation_elbo import MeanELBO
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


REPORT_EVERY = 100
"""Steps between looks at the loss: on a GPU each waits for it."""


@dataclass
class State:
    """How far training has come; all of it is in a checkpoint.

    Attributes:
        epoch: epochs done.
        step: optimizer steps done.
        best_elbo: best bound of the validation set so far, nats per datapoint: the ELBO, its KL weighted as in the
            objective, or L_K of an IWAE, so that what is kept is best at what it was trained for. NaN without a
            validation set.
        best_epoch: when that was.
        seconds: time spent on epochs, validation included.
        skipped: steps skipped by `on_nan=skip`.
        compiled: whether steps are compiled; None: not decided yet. A resumed run goes on in the same way: compiled
            code rounds differently.
    """

    epoch: int = 0
    step: int = 0
    best_elbo: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    skipped: int = 0
    compiled: bool | None = None

    @classmethod
    def of(cls, saved: dict[str, Any], path: Path) -> State:
        """The state saved in the checkpoint `path`.

        Raises:
            BadInput: if a name is unknown, or a value is not of the type that `asdict(state)` has there.
        """
        kinds: dict[str, tuple[type, ...]] = {field.name: (type(field.default),) for field in fields(cls)}
        kinds |= {"compiled": (bool, type(None)), "best_elbo": (float,), "seconds": (float, int)}
        for name, value in saved.items():
            if type(value) not in kinds.get(name, ()) or (type(value) is int and not 0 <= value < 2**53):
                raise BadInput(f"{path} was not written by pyro_vae: its state has {name}={shown(value)}")
        return cls(**saved)

    def end_epoch(
        self, elbo: float, log_likelihood: float, val_elbo: float, score: float, seconds: float
    ) -> tuple[dict[str, float], bool]:
        """One epoch more: its row of metrics, nats per datapoint, and whether its `score` is the best yet.

        NaN, for want of a validation set, always is.
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


@dataclass(frozen=True)
class Trainer:
    """Optimizes model and guide together with Pyro's SVI; several processes do so together (`distributed`).

    Args:
        max_epochs: stop after so many epochs.
        batch_size: datapoints a step, of all processes together; the last batch of an epoch may be shorter.
        patience: stop when the validation ELBO has not improved for so many epochs; None: never.
        max_seconds: stop, within an epoch if need be, after so much time; None: never.
        shuffle: take the training set in another order every epoch; False: in its own, the same batches every epoch;
            that is the files' of MNIST and its kin, of an array that of its random split.
        clip_norm: bound on the gradient's norm, for `JointOptim`; None: none.
        val_num_samples: draws of z a datapoint for the validation ELBO; an IWAE's bound takes as many as it trains
            with. The noise is the same every epoch.
        device: `cpu`, `cuda` …, or `auto`: a GPU if there is one.
        compile: trace the loss and its gradient once and compile them (`svi.SVI.compile`): True, False, or `auto`: if
            the run is long enough to pay that back. A last, shorter batch runs as it is.
        precision: `float32`, or `bf16-mixed`: matrix products in bfloat16, all else in float32; validation is float32.
        on_nan: `stop` at a loss that is NaN or infinite, on a GPU within 100 steps; or `skip` the steps whose loss or
            gradient is, and count them: a GPU then waits for each.
    """

    max_epochs: int = 100
    batch_size: int = 100
    patience: int | None = None
    max_seconds: float | None = None
    shuffle: bool = True
    clip_norm: float | None = None
    val_num_samples: int = 5
    device: str = "auto"
    compile: bool | str = "auto"
    precision: str = "float32"
    on_nan: str = "stop"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "val_num_samples", "patience"):
            if name != "patience" or self.patience is not None:
                positive_int(f"{name}", getattr(self, name))
        if self.max_seconds is not None:
            positive("max_seconds", self.max_seconds)
        true_false("shuffle", self.shuffle)
        true_false_auto("compile", self.compile)
        one_of("precision", self.precision, PRECISIONS)
        one_of("on_nan", self.on_nan, ("stop", "skip"))

    def check(self, vae: VAE, objective: Any, x: Tensor, y: Tensor | None) -> str | None:
        """Refuse an objective that cannot train this model; a note for the user, if there is something to know.

        Raises:
            BadInput: if it cannot.
        """
        note: str | None = objective.check(vae.model, vae.guide, x, y)
        return note

    def fit(
        self,
        vae: VAE,
        data: Dataset,
        objective: Any,
        optim: JointOptim,
        state: State,
        on_epoch: Callable[[dict[str, float], bool], None],
        on_start: Callable[[], None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train `vae` in place, from `state` on, which is advanced.

        Args:
            vae: whose model and guide to train, on the data's device.
            data: training and validation sets.
            objective: a Pyro ELBO with `differentiable_loss`, `elbo` and `log_likelihood` (`objectives/`).
            optim: steps the parameters.
            state: where to go on.
            on_epoch: called with the epoch's row of metrics and whether its validation ELBO is the best yet.
            on_start: called when `state` tells all that has been decided before the first step.
            on_step: called after every step; what it raises ends the training.

        Raises:
            BadInput: if batches or the validation set are too small to be shared by all processes, or what is to watch
                the latter has nothing to watch.
            FailedRun: if the loss or the validation ELBO is NaN or infinite.
        """
        started = time.monotonic() - state.seconds
        fewest = {"batch": min(self.batch_size, len(data.train)), "validation set": len(data.val)}
        for name, size in fewest.items():
            if 0 < size < collectives.world_size():
                raise BadInput(f"a {name} of {size} leaves some of {collectives.world_size()} processes no datapoint")
        if not len(data.val) and (self.patience is not None or optim.watches_validation):
            raise BadInput(
                "patience and scheduler=plateau watch the validation ELBO, but the validation set is empty: "
                "leave them out, or give it data"
            )

        rest = len(data.train) % self.batch_size
        if 0 < rest < collectives.world_size():
            log.log(NOTE, "each epoch leaves out its last batch of %d, too small for a share for each process", rest)

        def out_of_time() -> bool:
            return self.max_seconds is not None and collectives.anyone(time.monotonic() - started >= self.max_seconds)

        def after_step() -> bool:
            bar.update()
            on_step()
            return out_of_time()

        finite = {"skip": ["loss", "gradient"], "stop": [] if data.device.type == "cuda" else ["loss"]}[self.on_nan]
        svi = SVI(vae.model, vae.guide, optim, reported_loss(objective), self.precision, finite)
        mean_elbo = MeanELBO(vae, objective.for_validation(self.val_num_samples))
        num_steps = self.max_epochs * math.ceil(len(data.train) / self.batch_size)
        bar = tqdm(total=num_steps, initial=state.step, desc="training", unit="step", disable=not shows_bars())
        epochs = Epochs(log, self.max_epochs)
        # a fresh param store: what else this process trains under the same names stays apart
        with pyro.get_param_store().scope(), beside_bar(), bar, epochs, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # FailedRun says it better
            if reason := self.done(state):
                log.log(NOTE, "nothing is left to train: %s", reason)
            else:
                undecided = state.compiled is None
                self.prepare(svi, mean_elbo, data, objective, state)
                if undecided:
                    on_start()
            while not self.done(state):
                if out_of_time() and state.epoch > 0:
                    log.log(NOTE, "time limit reached at epoch %d (max_seconds=%s)", state.epoch, self.max_seconds)
                    break
                elbo, log_likelihood = self.train_epoch(svi, data, objective, state, after_step)
                val_elbo, kl_of_bound, bound = self.validate(mean_elbo, data)
                if len(data.val) and not math.isfinite(val_elbo):
                    raise FailedRun(f"the validation ELBO is {val_elbo} at epoch {state.epoch + 1}: {self.advice}")
                self.require_finite(state)
                score = bound + (1 - objective.kl_weight) * kl_of_bound
                optim.end_epoch(score)
                row, best = state.end_epoch(elbo, log_likelihood, val_elbo, score, time.monotonic() - started)
                on_epoch(row, best)
                bar.set_postfix(epoch=state.epoch, elbo=f"{row['train/elbo']:.2f}", val=f"{val_elbo:.2f}")
                if bar.disable:
                    epochs.tell(
                        "epoch %(epoch)4d  train/elbo %(train/elbo)9.3f  train/kl %(train/kl)7.3f  "
                        "val/elbo %(val/elbo)9.3f  %(seconds).1f s",
                        row,
                    )

    def train_epoch(
        self, svi: SVI, data: Dataset, objective: Any, state: State, after_step: Callable[[], bool] = lambda: False
    ) -> tuple[float, float]:
        """All training data once: ELBO and log-likelihood as met on the way, nats per datapoint.

        Args:
            svi: of `reported_loss(objective)`.
            data: training set.
            objective: is told how far training has come.
            state: its step is advanced.
            after_step: called after every step; ends the epoch if it returns True.

        Raises:
            FailedRun: if a loss is NaN or infinite.
        """
        N, seen, used, skipped = len(data.train), 0, 0, state.skipped
        order = collectives.from_rank_0(torch.randperm(N)) if self.shuffle else torch.arange(N)
        # a shorter batch at the end that would leave a process with nothing is left out
        batches = [batch for batch in order.split(self.batch_size) if len(batch) >= collectives.world_size()]
        reported: list[Tensor] = []
        sums = torch.zeros(2, dtype=torch.float64)
        with pyro.validation_enabled(False):  # `prepare` has looked at every value
            shares = [collectives.share(batch) for batch in batches]
            for whole, index, batch in zip(batches, shares, data.batches(shares), strict=False):
                objective.step, objective.epoch = state.step, state.epoch + seen / N
                noise = torch.get_rng_state()
                seen += len(whole)
                state.step += 1
                try:
                    reported.append(svi.step(*batch, objective.variant, weight=len(index) / len(whole))[1])
                    used += len(whole)
                except NotFinite as error:
                    if self.on_nan == "stop":
                        torch.set_rng_state(noise)
                        raise self.failure(f"{error} at step {state.step}", svi, batch, state) from error
                    state.skipped += 1
                stop = after_step()
                if stop or whole is batches[-1] or len(reported) == REPORT_EVERY:
                    sums += self.settle(reported, svi, batch, state)
                if stop:
                    break
        if state.skipped > skipped:
            log.warning("epoch %d: %d steps skipped, not finite", state.epoch + 1, state.skipped - skipped)
        if not used:
            raise FailedRun(f"epoch {state.epoch + 1}: every step was skipped, none was finite: {self.advice}")
        elbo, log_likelihood = (sums / used).tolist()
        return elbo, log_likelihood

    def prepare(self, svi: SVI, mean_elbo: MeanELBO, data: Dataset, objective: Any, state: State) -> None:
        """A dry run with all of Pyro's checks, which look at every value; then compile, if that is worth it.

        Raises:
            FailedRun: if Pyro finds parameters out of their constraints.
        """
        N = len(data.train)
        if self.precision != "float32" and not is_fast(data.device):
            log.warning(
                "precision=%s: %s has no instructions for it, float32 is faster",
                self.precision,
                data.device,
            )
        with fork_rng(data.val.x):
            batch = data.batch(collectives.share(torch.arange(min(self.batch_size, N))))
        first_steps: dict[Hashable, int] = {}
        for objective.step in count(state.step):
            first_steps.setdefault(objective.variant, objective.step)
            if len(first_steps) == objective.num_variants:
                break

        def dry_run() -> None:
            for objective.step in first_steps.values():
                svi.dry_run(*batch, objective.variant)

        try:
            with pyro.validation_enabled(True):
                dry_run()
        except ValueError as error:
            raise FailedRun(f"step {state.step + 1}: {one_line(error)}") from error
        with pyro.validation_enabled(False):
            if isinstance(self.compile, bool):
                state.compiled = self.compile
            elif state.compiled is None:
                num_steps = (self.max_epochs - state.epoch) * math.ceil(N / self.batch_size) / len(first_steps)
                state.compiled = collectives.from_rank_0(pays_back(dry_run, num_steps, self.max_seconds))
            if state.compiled:
                started = time.monotonic()
                svi.compile(dry_run)
                mean_elbo.compile(data.val.share().x, data.val.share().y)
                log.info(
                    "compiled in %.1f s, %.2f ms a step",
                    time.monotonic() - started,
                    1e3 * seconds(dry_run) / len(first_steps),
                )

    def settle(self, reported: list[Tensor], svi: SVI, batch: Batch, state: State) -> Tensor:
        """Take in what the last steps reported: the sums of ELBO and log-likelihood. Here the device is waited for.

        Raises:
            FailedRun: if a loss was NaN or infinite.
        """
        if not reported:  # all of them skipped, by all processes
            return torch.zeros(2, dtype=torch.float64)
        rows = torch.stack(reported).double().cpu()
        for i, loss in enumerate(rows[:, 0].tolist()):
            if not math.isfinite(loss):
                raise self.failure(f"the loss is {loss} at step {state.step - len(rows) + i + 1}", svi, batch, state)
        reported.clear()
        return collectives.total(rows[:, 1:].sum(0))

    def failure(self, what: str, svi: SVI, batch: Batch, state: State) -> FailedRun:
        """Stop before what is not a number gets into a checkpoint, and say where it comes from."""
        where = offending_site(svi.model, svi.guide, *batch)
        return FailedRun(
            f"{what} of epoch {state.epoch + 1}: {where}; the checkpoint of epoch {state.epoch} stays: {self.advice}"
        )

    def require_finite(self, state: State) -> None:
        """Stop before parameters that are NaN or infinite get into a checkpoint: the last step may have made them so.

        Raises:
            FailedRun: if there are any.
        """
        parameters = pyro.get_param_store().named_parameters()
        if bad := [name for name, parameter in parameters if not parameter.isfinite().all()]:
            raise FailedRun(
                f"{bad[0]} is not finite after epoch {state.epoch + 1}; the checkpoint of epoch {state.epoch} stays: "
                f"{self.advice}"
            )

    @property
    def advice(self) -> str:
        """What to do about numbers that are not finite."""
        return "try a smaller learning rate or clip_norm=10" + " or on_nan=skip" * (self.on_nan == "stop")

    def done(self, state: State) -> str | None:
        """Why no epoch is left to train, or None: there is one."""
        if state.epoch >= self.max_epochs:
            return f"max_epochs={self.max_epochs} are done"
        if self.patience is not None and state.epoch - state.best_epoch >= self.patience:
            return f"the validation ELBO has not improved for patience={self.patience} epochs"
        return None

    def validate(self, mean_elbo: MeanELBO, data: Dataset) -> tuple[float, float, float]:
        """Of the validation set, nats per datapoint, on noise that is the same every epoch: the ELBO, then what the
        objective's bound lies below the log-likelihood, and that bound.

        All are NaN without a validation set.
        """
        val = data.val.share()
        with seeded(collectives.rank(), val.x):
            own = mean_elbo(val.x, val.y)
        (whole,) = collectives.mean([torch.tensor(own, dtype=torch.float64)], len(val) / max(1, len(data.val)))
        elbo, log_likelihood, bound = whole.tolist()
        return elbo, log_likelihood - bound, bound


def reported_loss(objective: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """−ELBO per datapoint, so that step size and clipping do not depend on the batch size; and what is reported of it.

    That is a vector: the same number, and Σ_n of the ELBO and of the log-likelihood, nats.
    """

    def loss(model: Any, guide: Any, x: Tensor, y: Tensor | None, variant: Hashable) -> tuple[Tensor, Tensor]:
        value: Tensor = objective.differentiable_loss(model, guide, x, y) / len(x)
        return value, torch.stack([value.detach(), objective.elbo, objective.log_likelihood])

    return loss


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one, a process's own where several run on a machine.

    Raises:
        BadInput: if torch does not have it.
    """
    if name == "auto":
        name = f"cuda:{environment.local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(name))
        if device.type == "cpu" and device.index:  # torch makes tensors there, and loads none
            raise RuntimeError("there is one CPU")
        torch.zeros(1, device=device).item()  # which `meta` does not hold
    except (RuntimeError, AssertionError) as error:
        raise_out_of_memory(error)
        raise BadInput(
            f"device={shown(name)} is not available here: take cpu or auto, and a process for each GPU at most"
        ) from error
    return device
