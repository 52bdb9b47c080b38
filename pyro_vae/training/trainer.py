"""The SVI loop."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.data.split import Batch
from pyro_vae.errors import BadInput, FailedRun, one_of, positive, positive_int, true_false, true_false_auto
from pyro_vae.errors.own_code import own_code
from pyro_vae.objectives import Objective
from pyro_vae.parallel import collectives
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.random_state import fork_rng, seeded
from pyro_vae.training import threads
from pyro_vae.training.algorithm import Row, TrainingAlgorithm
from pyro_vae.training.bar import TrainingBar
from pyro_vae.training.batches import require_batches
from pyro_vae.training.contract import require_objective
from pyro_vae.training.device import torch_device
from pyro_vae.training.dry_run import DryRun
from pyro_vae.training.nonfinite import failed_step, require_finite_parameters, sum_reports
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.precision import is_fast
from pyro_vae.training.state import State
from pyro_vae.training.svi import PRECISIONS, SVI, NotFinite, reported_loss
from pyro_vae.training.switch import Switch
from pyro_vae.training.validation_elbo import MeanELBO
from pyro_vae.vae import VAE

__all__ = ["State", "Trainer", "reported_loss", "torch_device"]

log = logging.getLogger(__name__)

REPORT_EVERY = 100
"""Steps between reads of the loss, each of which synchronizes a GPU."""


@dataclass(frozen=True)
class Trainer(TrainingAlgorithm):
    """Optimizes model and guide jointly with Pyro's SVI, in one process or several (`parallel.collectives`).

    Args:
        max_epochs: maximal number of epochs.
        batch_size: datapoints per step, over all processes; the last batch of an epoch may be smaller.
        patience: stop when the validation bound, by which the best epoch is chosen, has not improved for this many
            epochs; None to disable. It is the ELBO, or the objective's own bound if that is another one (IWAE).
        max_seconds: time limit, which may end an epoch early; None to disable.
        shuffle: reorder the training set every epoch; if False, each epoch has the same batches, in the order of the
            files of MNIST and its kin, or of an array's random split.
        clip_norm: bound on the gradient's norm, for `JointOptim`; None to disable.
        val_num_samples: draws of z per datapoint for the validation ELBO, except that an IWAE's bound uses as many as
            in training. The noise is the same every epoch.
        device: `cpu`, `cuda` …, or `auto`: a GPU if available.
        compile: trace the loss and its gradient once and compile them (`SVI.compile`): True, False, `auto`, which
            compiles if the run is long enough to save time, or `background`: in another process, if possible, while
            the first steps run as traced (`Switch`). A smaller last batch runs eagerly.
        precision: `float32`, or `bf16-mixed` for matrix products in bfloat16 and the rest in float32. Validation is in
            float32.
        on_nan: `stop` at a NaN or infinite loss, on a GPU within 100 steps; or `skip` the steps whose loss or gradient
            is not finite, and count them, for which a GPU is synchronized every step.
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
                positive_int(name, getattr(self, name))
        if self.max_seconds is not None:
            positive("max_seconds", self.max_seconds)
        true_false("shuffle", self.shuffle)
        true_false_auto("compile", self.compile, "background")
        one_of("precision", self.precision, PRECISIONS)
        one_of("on_nan", self.on_nan, ("stop", "skip"))

    def check(self, vae: VAE, objective: Objective, x: Tensor, y: Tensor | None) -> str | None:
        """Return a note for the user, if there is anything to know about this combination.

        Raises:
            BadInput: if the objective does not keep its contract, or cannot train this model.
        """
        require_objective(objective, vae, x, y)
        with own_code("the check", objective=objective, **vae.families):
            return objective.check(vae.model, vae.guide, x, y)

    def check_data(self, vae: VAE, data: Dataset) -> None:
        """Check that batches and validation set suffice.

        Raises:
            BadInput: if they do not.
        """
        require_batches(vae, data, self.batch_size)

    def fit(
        self,
        vae: VAE,
        data: Dataset,
        objective: Objective,
        optim: JointOptim,
        state: State,
        on_epoch: Callable[[Row, bool], None],
        on_start: Callable[[], None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train `vae` in place from `state`, which advances; see `TrainingAlgorithm.fit`."""
        started = time.monotonic() - state.seconds
        self.check_data(vae, data)
        if not len(data.val) and (self.patience is not None or optim.watches_validation):
            raise BadInput(
                "patience and scheduler=plateau watch the validation ELBO, but the validation set is empty: "
                "leave them out, or give it data"
            )

        def out_of_time() -> bool:
            return self.max_seconds is not None and collectives.anyone(time.monotonic() - started >= self.max_seconds)

        def after_step() -> bool:
            bar.step()
            on_step()
            switch.after_step()
            return out_of_time()

        finite = {"skip": ["loss", "gradient"], "stop": [] if data.device.type == "cuda" else ["loss"]}[self.on_nan]
        svi = SVI(vae.model, vae.guide, optim, reported_loss(objective), self.precision, finite)
        mean_elbo = MeanELBO(vae, objective.for_validation(self.val_num_samples))
        num_steps = self.max_epochs * math.ceil(len(data.train) / self.batch_size)
        bar, switch = TrainingBar(log, self.max_epochs, num_steps, state.step), Switch(self.compile, state)
        # a fresh param store separates this training from others in the process that use the same names
        with pyro.get_param_store().scope(), bar, threads.using(state.threads), switch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # FailedRun reports it
            if reason := self.done(state):
                log.log(NOTE, "nothing is left to train: %s", reason)
                return
            undecided = state.compiled is None
            with own_code("the first step", objective=objective, **vae.families):
                self.prepare(svi, mean_elbo, data, objective, state, switch)
            if undecided:
                on_start()
            while not self.done(state):
                if out_of_time() and state.epoch > 0:
                    log.log(NOTE, "time limit reached at epoch %d (max_seconds=%s)", state.epoch, self.max_seconds)
                    break
                with own_code(f"epoch {state.epoch + 1}", objective=objective, **vae.families):
                    elbo, log_likelihood = self.train_epoch(svi, data, objective, state, after_step)
                    val_elbo, score = self.finish_epoch(mean_elbo, data, objective, optim, state)
                row, best = state.end_epoch(elbo, log_likelihood, val_elbo, score, time.monotonic() - started)
                on_epoch(row, best)
                bar.epoch(row)

    def prepare(
        self, svi: SVI, mean_elbo: MeanELBO, data: Dataset, objective: Objective, state: State, switch: Switch
    ) -> None:
        """Run once with all of Pyro's checks, which read every value; then compile if it saves time.

        Raises:
            FailedRun: if Pyro finds parameters that violate their constraints.
        """
        N = len(data.train)
        if 0 < N % self.batch_size < collectives.world_size():
            log.log(
                NOTE, "each epoch leaves out its last batch of %d, too small for all processes", N % self.batch_size
            )
        if self.precision != "float32" and not is_fast(data.device):
            log.warning("precision=%s: %s has no instructions for it, float32 is faster", self.precision, data.device)
        with fork_rng(data.val.x):
            batch = data.batch(collectives.share(torch.arange(min(self.batch_size, N))))
        dry_run = DryRun(svi, objective, batch, state)
        dry_run.check()
        with pyro.validation_enabled(False):
            if data.device.type == "cpu":
                threads.settle(dry_run, state)
            num_steps = (self.max_epochs - state.epoch) * math.ceil(N / self.batch_size)
            switch.prepare(dry_run, mean_elbo, data.val.share(), num_steps, self.max_seconds)

    def train_epoch(
        self,
        svi: SVI,
        data: Dataset,
        objective: Objective,
        state: State,
        after_step: Callable[[], bool] = lambda: False,
    ) -> tuple[float, float]:
        """Train on all data once; return the mean ELBO and log-likelihood over the steps, in nats per datapoint.

        Args:
            svi: of `reported_loss(objective)`.
            data: training set.
            objective: the bound to maximize.
            state: the position in training, which advances.
            after_step: called after every step; ends the epoch if it returns True.

        Raises:
            FailedRun: if a loss is NaN or infinite.
        """
        N, seen, used, skipped = len(data.train), 0, 0, state.skipped
        order = collectives.from_rank_0(torch.randperm(N)) if self.shuffle else torch.arange(N)
        # omit a last batch that is too small for all processes
        batches = [batch for batch in order.split(self.batch_size) if len(batch) >= collectives.world_size()]
        reported: list[Tensor] = []
        sums = torch.zeros(2, dtype=torch.float64)
        with pyro.validation_enabled(False):  # `prepare` has checked every value
            shares = [collectives.share(batch) for batch in batches]
            for whole, index, batch in zip(batches, shares, data.batches(shares), strict=False):
                variant = objective.at_step(state.step, state.epoch + seen / N)
                seen += len(whole)
                report = self.step(svi, batch, variant, len(index) / len(whole), state)
                if report is not None:
                    reported.append(report)
                    used += len(whole)
                stop = after_step()
                if stop or whole is batches[-1] or len(reported) == REPORT_EVERY:
                    sums += sum_reports(reported, svi, batch, state, self.advice)
                if stop:
                    break
        if state.skipped > skipped:
            log.warning("epoch %d: %d steps skipped, not finite", state.epoch + 1, state.skipped - skipped)
        if not used:
            raise FailedRun(f"epoch {state.epoch + 1}: every step was skipped, none was finite: {self.advice}")
        elbo, log_likelihood = (sums / used).tolist()
        return elbo, log_likelihood

    def step(self, svi: SVI, batch: Batch, variant: Hashable, weight: float, state: State) -> Tensor | None:
        """Make a step; return its report, or None if it was skipped.

        Raises:
            FailedRun: if its loss is NaN or infinite, unless such steps are skipped.
        """
        noise = torch.get_rng_state()
        state.step += 1
        try:
            return svi.step(*batch, variant, weight=weight)[1]
        except NotFinite as error:
            if self.on_nan == "stop":
                torch.set_rng_state(noise)
                raise failed_step(f"{error} at step {state.step}", svi, batch, state, self.advice) from error
        state.skipped += 1
        return None

    def finish_epoch(
        self, mean_elbo: MeanELBO, data: Dataset, objective: Objective, optim: JointOptim, state: State
    ) -> tuple[float, float]:
        """Validate and step the learning-rate schedule; return the validation ELBO and the score of the epoch.

        Raises:
            FailedRun: if the validation ELBO or a parameter is NaN or infinite.
        """
        val_elbo, kl_of_bound, bound = self.validate(mean_elbo, data)
        if len(data.val) and not math.isfinite(val_elbo):
            raise FailedRun(f"the validation ELBO is {val_elbo} at epoch {state.epoch + 1}: {self.advice}")
        require_finite_parameters(state, self.advice)
        score = bound + (1 - objective.kl_weight) * kl_of_bound
        optim.end_epoch(score)
        return val_elbo, score

    def validate(self, mean_elbo: MeanELBO, data: Dataset) -> tuple[float, float, float]:
        """Return the validation set's ELBO, the gap from the bound to the log-likelihood, and the bound.

        All are in nats per datapoint, with the same noise every epoch, and NaN without a validation set.
        """
        val = data.val.share()
        with seeded(collectives.rank(), val.x):
            own = mean_elbo(val.x, val.y)
        (whole,) = collectives.mean([torch.tensor(own, dtype=torch.float64)], len(val) / max(1, len(data.val)))
        elbo, log_likelihood, bound = whole.tolist()
        return elbo, log_likelihood - bound, bound

    @property
    def advice(self) -> str:
        """The remedies for numbers that are not finite."""
        return "try a smaller learning rate or clip_norm=10" + " or on_nan=skip" * (self.on_nan == "stop")

    def done(self, state: State) -> str | None:
        """Return why training is complete; None if it is not."""
        if state.epoch >= self.max_epochs:
            return f"max_epochs={self.max_epochs} are done"
        if self.patience is not None and state.epoch - state.best_epoch >= self.patience:
            return f"the validation ELBO has not improved for patience={self.patience} epochs"
        return None
