"""Runs pythae's models and trainer."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler
from torch import Tensor

from pyro_vae.benchmark.hand_written import mlp
from pyro_vae.benchmark.works import (
    BATCH,
    DATA_DIM,
    DECODER,
    ENCODER,
    IWAE_PARTICLES,
    LATENT_DIM,
    LEARNING_RATE,
    NUM_SAMPLES,
    Setup,
    Timed,
)


class Encoder(BaseEncoder):  # type: ignore[misc]  # pythae is untyped
    """Parametrizes q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(ENCODER)

    def forward(self, x: Tensor) -> ModelOutput:
        """Return mean and log-variance."""
        loc, log_variance = self.network(x).chunk(2, dim=-1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):  # type: ignore[misc]
    """Parametrizes p(x | z)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(DECODER)

    def forward(self, z: Tensor) -> ModelOutput:
        """Return probabilities, as pythae's losses expect."""
        return ModelOutput(reconstruction=self.network(z).sigmoid())


class Binarized(BaseDataset):  # type: ignore[misc]
    """Binarizes each image on access."""

    def __getitem__(self, index: int) -> DatasetOutput:
        return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=self.labels[index])


def works() -> dict[str, Setup]:
    """Return the setups of all works."""
    shape = {"input_dim": (DATA_DIM,), "latent_dim": LATENT_DIM, "reconstruction_loss": "bce"}

    def vae() -> Any:
        return VAE(VAEConfig(**shape), Encoder(), Decoder())

    def step(model: Any, x: np.ndarray) -> Timed:
        optim = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        batch = DatasetOutput(data=torch.from_numpy(x))

        def run(n: int) -> None:
            for _ in range(n):
                loss = model(batch).loss
                optim.zero_grad()
                loss.backward()
                optim.step()

        return Timed(run)

    def epoch(x: np.ndarray) -> Timed:
        config = BaseTrainerConfig(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            no_cuda=True,
        )
        trainer = BaseTrainer(vae(), Binarized(torch.from_numpy(x), torch.zeros(len(x))), training_config=config)
        trainer.set_optimizer()
        trainer.callback_handler = CallbackHandler([], trainer.model)  # no progress bar, no files

        def run(n: int) -> None:
            for i in range(n):
                trainer.train_step(i)

        return Timed(run, len(x) / BATCH)

    def log_px(x: np.ndarray) -> Timed:
        model, few = vae(), torch.from_numpy(x[:2])

        @torch.no_grad()
        def run(n: int) -> None:
            for _ in range(n):
                model.get_nll(few, n_samples=NUM_SAMPLES, batch_size=NUM_SAMPLES // 5)

        return Timed(run, len(few))

    return {
        "step_100": lambda x: step(vae(), x),
        "step_1000": lambda x: step(vae(), x),
        "iwae_50": lambda x: step(IWAE(IWAEConfig(number_samples=IWAE_PARTICLES, **shape), Encoder(), Decoder()), x),
        "epoch": epoch,
        "log_px": log_px,
    }
