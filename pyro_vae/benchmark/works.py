"""Defines the works to time, their data and the model. Imports only NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DATA_DIM, HIDDEN, LATENT_DIM, LEARNING_RATE = 784, 200, 50, 1e-3
ENCODER = ((DATA_DIM, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2 * LATENT_DIM))
DECODER = ((LATENT_DIM, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, DATA_DIM))
"""Inputs and outputs of the linear layers, which tanh separates."""
PROGRAM_ENCODER = ((DATA_DIM, 400), (400, 2 * LATENT_DIM))
PROGRAM_DECODER = ((LATENT_DIM, 400), (400, DATA_DIM))
"""The same for `program`, where softplus separates them."""
Layers = tuple[tuple[int, int], ...]
IWAE_PARTICLES = 50
BATCH = 100
"""Batch size within an epoch."""
NUM_SAMPLES = 5000
"""Number K of importance samples."""
BLOCK = 4096
"""Number of pairs (sample, datapoint) to process at once."""


class Work(NamedTuple):
    """A work.

    Attributes:
        title: title in one line.
        unit: unit of its times.
        num_data: number of datapoints.
        baseline: contender to compare with, whatever the settings; None for that of the settings.
    """

    title: str
    unit: str
    num_data: int
    baseline: str | None = None


WORKS = {
    "step_100": Work("one training step, KL in closed form, batch of 100", "step", 100),
    "step_1000": Work("one training step, KL in closed form, batch of 1000", "step", 1000),
    "iwae_50": Work("one training step of IWAE, K = 50, batch of 20", "step", 20),
    "epoch": Work("an epoch of 10,000 images, shuffled and binarized in batches of 100", "step", 10_000),
    "log_px": Work("log p(x) by importance sampling, K = 5000", "datapoint", 100),
    "program": Work("one training step of the VAE of Pyro's tutorial, batch of 128", "step", 128, baseline="Pyro"),
}


class Timed(NamedTuple):
    """Work to time: `run(n)` repeats it n times; each repetition counts as `units` steps or datapoints."""

    run: Callable[[int], None]
    units: float = 1


Setup = Callable[[np.ndarray], Timed]
"""Sets up a model for data x `[N, 784]`, float32, and returns the work, ready to run at full speed."""


def data(work: str, seed: int) -> np.ndarray:
    """Draw grey images in [0, 1] with four fifths of the pixels 0, as in MNIST; binarize them except for `epoch`."""
    rng = np.random.default_rng(seed)
    shape = (WORKS[work].num_data, DATA_DIM)
    grey = rng.random(shape) * (rng.random(shape) < 0.2)
    return np.asarray(grey if work == "epoch" else rng.random(shape) < grey, dtype=np.float32)
