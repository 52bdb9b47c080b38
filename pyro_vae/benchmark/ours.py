"""Runs this library as its trainer and estimator do."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pyro
import torch

from pyro_vae.benchmark.works import (
    BATCH,
    DATA_DIM,
    HIDDEN,
    IWAE_PARTICLES,
    LATENT_DIM,
    LEARNING_RATE,
    NUM_SAMPLES,
    Setup,
    Timed,
)
from pyro_vae.compilation.compiled import compiled
from pyro_vae.data import Dataset, Split
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Importance
from pyro_vae.marginal.evidence import LogEvidence, accumulate
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE, Objective, TraceMeanField_ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.chunks import chunks
from pyro_vae.programs.log_weights import log_weights, stream
from pyro_vae.programs.memory import pairs_at_once
from pyro_vae.training.optim import FusedAdam, JointOptim
from pyro_vae.training.state import State
from pyro_vae.training.svi import SVI, reported_loss
from pyro_vae.training.trainer import Trainer
from pyro_vae.vae import VAE


def works(compile: bool = False, precision: str = "float32") -> dict[str, Setup]:
    """Return the setups of all works, compiled or not."""
    vae = VAE.build([DATA_DIM], LATENT_DIM, MLP([HIDDEN, HIDDEN], "tanh"), StandardNormal, Bernoulli, Diagonal)
    elbo, iwae = TraceMeanField_ELBO(), IWAE(IWAE_PARTICLES)

    @cache
    def training(objective: Objective, batch_size: int) -> SVI:
        optim = JointOptim(partial(FusedAdam, lr=LEARNING_RATE))
        svi = SVI(vae.model, vae.guide, optim, reported_loss(objective), precision)

        def dry_run() -> None:
            svi.dry_run(torch.zeros(batch_size, DATA_DIM), None, None)

        with pyro.validation_enabled(True):
            dry_run()
        with pyro.validation_enabled(False):
            if compile:
                svi.compile(dry_run)
        return svi

    def step(objective: Objective, x: np.ndarray) -> Timed:
        svi, batch = training(objective, len(x)), torch.from_numpy(x)

        def run(n: int) -> None:
            with pyro.validation_enabled(False):
                for _ in range(n):
                    svi.step(batch, None, None)

        return Timed(run)

    def epoch(x: np.ndarray) -> Timed:
        svi, trainer, state = training(elbo, BATCH), Trainer(batch_size=BATCH), State()
        train, other = Split(torch.from_numpy(x)), Split(torch.from_numpy(x[:BATCH]))
        data = Dataset(train, other, other, binarize="dynamic")

        def run(n: int) -> None:
            for _ in range(n):
                trainer.train_epoch(svi, data, elbo, state)

        return Timed(run, len(x) / BATCH)

    def log_px(x: np.ndarray) -> Timed:
        # as in Importance, which would compile again in each call
        data, estimator, weigh = torch.from_numpy(x), Importance(NUM_SAMPLES), compiled(log_weights, compile)
        pairs = pairs_at_once("auto", vae.model, data)
        draw = partial(stream, vae.model, vae.guide, data, chunk_size=pairs, weigh=weigh)
        k = chunks(len(x), NUM_SAMPLES, pairs)[1]
        for _ in range(3 if compile else 0):  # blocks of all shapes that occur
            for blocks in draw(num_samples=k + NUM_SAMPLES % k):
                list(blocks)

        def run(n: int) -> None:
            with pyro.validation_enabled(False):
                for _ in range(n):
                    parts = draw(num_samples=NUM_SAMPLES)
                    LogEvidence.cat([accumulate(blocks, estimator.sizes, estimator.reduce) for blocks in parts])

        return Timed(run, len(x))

    return {
        "step_100": partial(step, elbo),
        "step_1000": partial(step, elbo),
        "iwae_50": partial(step, iwae),
        "epoch": epoch,
        "log_px": log_px,
    }
