"""The progress of training."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack

from tqdm import tqdm

from pyro_vae.programs.progress import Epochs, beside_bar, shows_bars
from pyro_vae.training.algorithm import Row

TRAINING = "epoch %(epoch)4d of %(num_epochs)d  train/elbo %(train/elbo)9.3f  train/kl %(train/kl)7.3f"
VALIDATION = "  val/elbo %(val/elbo)9.3f"
SECONDS = "  %(seconds).1f s"


class TrainingBar(ExitStack):
    """A context manager that shows a bar of all steps or, without a terminal or notebook, a line per epoch.

    Args:
        log: destination of the lines, if `logging` is configured.
        num_epochs: how many there will be at most.
        num_steps: in these epochs.
        step: steps done already.
    """

    def __init__(self, log: logging.Logger, num_epochs: int, num_steps: int, step: int) -> None:
        super().__init__()
        self.bar = tqdm(total=num_steps, initial=step, desc="training", unit="step", disable=not shows_bars())
        self.num_epochs, self.lines = num_epochs, Epochs(log, num_epochs)

    def __enter__(self) -> TrainingBar:
        for context in (beside_bar(), self.bar, self.lines):
            self.enter_context(context)
        return self

    def step(self) -> None:
        """Count a step."""
        self.bar.update()

    def epoch(self, row: Row) -> None:
        """Show an epoch's metrics, including the validation ELBO if there are validation data."""
        validated = not math.isnan(row["val/elbo"])
        val = {"val": f"{row['val/elbo']:.2f}"} if validated else {}
        self.bar.set_postfix(epoch=row["epoch"], elbo=f"{row['train/elbo']:.2f}", **val)
        if self.bar.disable:
            line = TRAINING + VALIDATION * validated + SECONDS
            self.lines.tell(line, {**row, "num_epochs": self.num_epochs})
