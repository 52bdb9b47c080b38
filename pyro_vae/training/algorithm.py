"""The contract of training algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.objectives import Objective
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.state import State
from pyro_vae.vae import VAE

Row = dict[str, float]
"""Metrics of an epoch, in nats per datapoint, as in metrics.csv."""


class TrainingAlgorithm(ABC):
    """Trains a VAE on a data set, epoch by epoch: `Trainer` by gradients, `ExactEM` in closed form."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The device to train on: `cpu`, `cuda` …, or `auto`."""

    @property
    def clip_norm(self) -> float | None:
        """Bound on the gradient's norm, for `JointOptim`; None if unbounded."""
        return None

    @abstractmethod
    def check(self, vae: VAE, objective: Objective, x: Tensor, y: Tensor | None) -> str | None:
        """Return a note for the user, if there is anything to know about this combination.

        Raises:
            BadInput: if the algorithm cannot train this model with this objective.
        """

    @abstractmethod
    def check_data(self, vae: VAE, data: Dataset) -> None:
        """Check before training that the data suit the algorithm.

        Raises:
            BadInput: if they do not.
        """

    @abstractmethod
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
        """Train `vae` in place from `state`, which advances.

        Args:
            vae: on the data's device.
            data: training and validation sets.
            objective: the bound to maximize.
            optim: steps the parameters.
            state: the position to continue from.
            on_epoch: called with the epoch's row of metrics and whether it is the best yet.
            on_start: called once `state` contains everything decided before the first step.
            on_step: called after every step; an exception ends the training.

        Raises:
            BadInput: if the data do not suit the algorithm.
            FailedRun: if the loss or the validation ELBO is NaN or infinite.
        """
