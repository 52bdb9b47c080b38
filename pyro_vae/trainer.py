"""The SVI loop."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput, FailedRun, one_line, positive, positive_int
from pyro_vae.marginal.weights import slices
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.optim import JointOptim
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


@dataclass
class State:
    """How far training has come; all of it is in a checkpoint.

    Attributes:
        epoch: epochs done.
        step: optimizer steps done.
        best_elbo: best validation ELBO so far, nats per datapoint; its KL weighted as in the objective, so that a
            β-VAE keeps the epoch that is best at what it was trained for.
        best_epoch: when that was.
        seconds: time spent on epochs, validation included.
    """

    epoch: int = 0
    step: int = 0
    best_elbo: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0

    def end_epoch(
        self, elbo: float, log_likelihood: float, val_elbo: float, score: float, seconds: float
    ) -> tuple[dict[str, float], bool]:
        """One epoch more: its row of metrics, nats per datapoint, and whether its `score` is the best yet."""
        self.epoch += 1
        self.seconds = seconds
        best = score > self.best_elbo
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
    """Optimizes model and guide together with Pyro's SVI.

    Args:
        max_epochs: stop after so many epochs.
        batch_size: datapoints a step; the last batch of an epoch may be shorter.
        patience: stop when the validation ELBO has not improved for so many epochs; None: never.
        max_seconds: stop, within an epoch if need be, after so much time; None: never.
        clip_norm: bound on the gradient's norm, for `JointOptim`; None: none.
        val_num_samples: draws of z a datapoint for the validation ELBO; the noise is the same every epoch.
        device: `cpu`, `cuda` …, or `auto`: a GPU if there is one.
    """

    max_epochs: int = 100
    batch_size: int = 100
    patience: int | None = None
    max_seconds: float | None = None
    clip_norm: float | None = None
    val_num_samples: int = 5
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "val_num_samples", "patience"):
            if name != "patience" or self.patience is not None:
                positive_int(f"trainer.{name}", getattr(self, name))
        if self.max_seconds is not None:
            positive("trainer.max_seconds", self.max_seconds)

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
            on_step: called after every step; what it raises ends the training.

        Raises:
            FailedRun: if the loss or the validation ELBO is NaN or infinite.
        """
        N, started = len(data.train), time.monotonic() - state.seconds

        def loss(model: Any, guide: Any, x: Tensor, y: Tensor | None) -> Tensor:
            """−ELBO per datapoint: step size and clipping do not depend on the batch size."""
            value: Tensor = objective.differentiable_loss(model, guide, x, y) / len(x)
            return value

        def out_of_time() -> bool:
            return self.max_seconds is not None and time.monotonic() - started >= self.max_seconds

        svi = SVI(vae.model, vae.guide, optim, loss=loss)
        bar = tqdm(total=self.max_epochs * math.ceil(N / self.batch_size), initial=state.step, disable=None)
        # a fresh param store: what else this process trains under the same names stays apart
        with pyro.get_param_store().scope(), logging_redirect_tqdm(), bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered NaN")  # FailedRun says it better
            while state.epoch < self.max_epochs and not self.stalled(state):
                if out_of_time() and state.epoch > 0:
                    break
                elbo = log_likelihood = torch.zeros((), device=data.train.x.device)
                seen = 0
                for index in torch.randperm(N).to(data.train.x.device).split(self.batch_size):
                    objective.step, objective.epoch = state.step, state.epoch + seen / N
                    # Pyro's checks look at every value: the first step passes them, the rest is like it
                    try:
                        with pyro.validation_enabled(state.step == 0):
                            step_loss = svi.step(*data.batch(index))
                    except ValueError as error:  # Pyro's, of parameters out of their constraints
                        raise FailedRun(f"step {state.step + 1}: {one_line(error)}") from error
                    self.check_finite("the loss", step_loss, f"step {state.step + 1} of epoch {state.epoch + 1}")
                    elbo = elbo + objective.elbo
                    log_likelihood = log_likelihood + objective.log_likelihood
                    seen += len(index)
                    state.step += 1
                    bar.update()
                    on_step()
                    if out_of_time():
                        break
                val_elbo, val_kl = self.validate(vae, data)
                self.check_finite("the validation ELBO", val_elbo, f"epoch {state.epoch + 1}")
                score = val_elbo + (1 - objective.kl_weight) * val_kl
                optim.end_epoch(score)
                means = elbo.item() / seen, log_likelihood.item() / seen
                row, best = state.end_epoch(*means, val_elbo, score, time.monotonic() - started)
                on_epoch(row, best)
                bar.set_postfix(epoch=state.epoch, elbo=f"{row['train/elbo']:.2f}", val=f"{val_elbo:.2f}")
                if bar.disable:  # no terminal
                    log.info(
                        "epoch %(epoch)4d  train/elbo %(train/elbo)9.3f  train/kl %(train/kl)7.3f  "
                        "val/elbo %(val/elbo)9.3f  %(seconds).1f s",
                        row,
                    )

    def check_finite(self, name: str, value: float, where: str) -> None:
        """Stop before what is not a number gets into a checkpoint.

        Raises:
            FailedRun: if `value` is NaN or infinite.
        """
        if not math.isfinite(value):
            raise FailedRun(f"{name} is {value} at {where}: try a smaller optimizer.lr or trainer.clip_norm=10")

    def stalled(self, state: State) -> bool:
        """Whether the validation ELBO has not improved for `patience` epochs."""
        return self.patience is not None and state.epoch - state.best_epoch >= self.patience

    def validate(self, vae: VAE, data: Dataset) -> tuple[float, float]:
        """Validation ELBO and its KL, nats per datapoint, on noise of its own that is the same every epoch."""
        with torch.random.fork_rng([data.val.x.device] if data.val.x.is_cuda else []):
            torch.manual_seed(0)
            elbo, log_likelihood = mean_elbo(vae, data.val.x, data.val.y, self.val_num_samples)
        return elbo, log_likelihood - elbo


def mean_elbo(
    vae: VAE, x: Tensor, y: Tensor | None = None, num_particles: int = 1, chunk_size: int = 4096
) -> tuple[float, float]:
    """ELBO of data x `[N, *data_shape]`, y `[N]`, and its log-likelihood part, nats per datapoint.

    Args:
        vae: whose.
        x: data.
        y: labels, if there are any.
        num_particles: draws of z a datapoint.
        chunk_size: pairs (draw, datapoint) in memory at once.
    """
    objective = Trace_ELBO(num_particles)
    elbo = log_likelihood = torch.zeros((), dtype=torch.float64, device=x.device)
    with torch.no_grad(), pyro.validation_enabled(False):
        for x_part, y_part in slices(max(1, chunk_size // num_particles), x, y):
            objective.loss(vae.model, vae.guide, x_part, y_part)  # type: ignore[no-untyped-call]
            elbo, log_likelihood = elbo + objective.elbo, log_likelihood + objective.log_likelihood
    return elbo.item() / len(x), log_likelihood.item() / len(x)


def torch_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one.

    Raises:
        BadInput: if torch does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device={name} is not available here: take cpu or auto") from error
    return device
