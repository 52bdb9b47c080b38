"""Paired differences of the validation ELBO between the trials of a search."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from pyro_vae.data import Dataset, fingerprint
from pyro_vae.errors import NoEvidence, datapoints
from pyro_vae.marginal import ELBO
from pyro_vae.programs.random_state import seeded
from pyro_vae.runs.paired import Scores, with_error
from pyro_vae.vae import VAE

NUM_SAMPLES = 10
"""Draws of z for each datapoint."""

SHOWN = 10
"""Most trials in the table."""


class Trials:
    """The validation ELBO of each datapoint by each trial, estimated with the same seed."""

    def __init__(self) -> None:
        self._elbos: dict[int, tuple[Scores, Any]] = {}

    def add(self, number: int, vae: VAE, data: Dataset) -> None:
        """Estimate the ELBO of a trial; an autoencoder has none, and is left out."""
        val = data.val
        with suppress(NoEvidence), seeded(0, val.x):
            y = vae.taken_labels(val.y)
            elbo = ELBO(NUM_SAMPLES)(*vae.programs(y), val.x, y).elbo.cpu().numpy()
            self._elbos[number] = Scores(elbo, np.zeros(len(elbo), bool)), fingerprint(data)["val"]

    def table(self, best: int) -> str | None:
        """Format how much higher the ELBO of the `best` trial is than those of the others, the smallest first.

        Trials on other validation data are left out.

        Returns:
            The table; None if nothing can be compared, e.g. because the best trial was one of an earlier search.
        """
        if best not in self._elbos:
            return None
        scores, x = self._elbos[best]
        found = [
            (scores.minus(other), number)
            for number, (other, its_x) in self._elbos.items()
            if number != best and its_x == x
        ]
        known = sorted((d.difference, number, d.se) for d, number in found if d.difference is not None)
        rows = [f"  trial {number:3d}  {with_error(mean, se):>18}" for mean, number, se in known[:SHOWN]]
        title = (
            f"val/elbo of trial {best} minus that of other trials of this search ± standard error over the same "
            f"{datapoints(len(scores.log_px))} (nats per datapoint)"
        )
        return "\n".join([title, *rows]) if rows else None
