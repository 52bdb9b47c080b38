"""Runs Pyro's SVI as in its tutorial, https://pyro.ai/examples/vae.html."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTraceMeanField_ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.optim import Adam  # type: ignore[attr-defined]  # Pyro creates its optimizers on import
from torch import Tensor, nn

from pyro_vae.benchmark.hand_written import mlp
from pyro_vae.benchmark.works import (
    BATCH,
    DECODER,
    ENCODER,
    IWAE_PARTICLES,
    LATENT_DIM,
    LEARNING_RATE,
    NUM_SAMPLES,
    PROGRAM_DECODER,
    PROGRAM_ENCODER,
    Layers,
    Setup,
    Timed,
)
from pyro_vae.compilation.elbos import CompiledIWAE, CompiledTrace_ELBO, CompiledTraceMeanField_ELBO
from pyro_vae.training.optim import FusedAdam, JointOptim


class VAE(nn.Module):
    """The model and guide of the tutorial."""

    def __init__(self, encoder: Layers = ENCODER, decoder: Layers = DECODER, activation: Any = nn.Tanh) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(encoder, activation), mlp(decoder, activation)

    def model(self, x: Tensor) -> None:
        """Define p(x, z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = x.new_zeros(x.shape[0], LATENT_DIM), x.new_ones(x.shape[0], LATENT_DIM)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Define q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


def works(elbo: str = "eager") -> dict[str, Setup]:
    """Return setups with ELBOs and optimizer of Pyro (`eager`, `jit`) or of this library (`compiled`)."""
    pyro.distributions.enable_validation(False)  # as the tutorial does
    vae = VAE()
    renyi = partial(RenyiELBO, alpha=0, vectorize_particles=True, max_plate_nesting=1)
    losses: dict[str, tuple[Any, Any]] = {
        "eager": (TraceMeanField_ELBO, renyi),
        "jit": (partial(JitTraceMeanField_ELBO, ignore_jit_warnings=True), renyi),
        "compiled": (CompiledTraceMeanField_ELBO, CompiledIWAE),
    }
    closed_form, multi_sample = losses[elbo]

    def svi(loss: Any, batch_size: int, vae: VAE = vae) -> SVI:
        ours = JointOptim(partial(FusedAdam, lr=LEARNING_RATE)) if elbo == "compiled" else None
        svi = SVI(vae.model, vae.guide, ours or Adam({"lr": LEARNING_RATE}), loss)
        for _ in range(2 if ours else 0):  # the first runs eagerly, the second traces, the third compiles
            svi.step(torch.zeros(batch_size, ENCODER[0][0]))
        return svi

    def step(loss: Any, x: np.ndarray, vae: VAE = vae) -> Timed:
        one, batch = svi(loss, len(x), vae), torch.from_numpy(x)

        def run(n: int) -> None:
            for _ in range(n):
                one.step(batch)

        return Timed(run)

    def epoch(x: np.ndarray) -> Timed:
        one, grey = svi(closed_form(), BATCH), torch.from_numpy(x)

        def run(n: int) -> None:
            for _ in range(n):
                loss = 0.0
                for index in torch.randperm(len(grey)).split(BATCH):
                    loss += one.step(torch.bernoulli(grey[index]))

        return Timed(run, len(x) / BATCH)

    def log_px(x: np.ndarray) -> Timed:
        few = torch.from_numpy(x[:2])

        @torch.no_grad()
        def run(n: int) -> None:
            for datapoint in few.split(1) * n:
                log_weights, _, _ = vectorized_importance_weights(
                    vae.model, vae.guide, datapoint, num_samples=NUM_SAMPLES, max_plate_nesting=1
                )
                log_weights.logsumexp(0) - math.log(NUM_SAMPLES)

        return Timed(run, len(few))

    return {
        "step_100": lambda x: step(closed_form(), x),
        "step_1000": lambda x: step(closed_form(), x),
        "iwae_50": lambda x: step(multi_sample(num_particles=IWAE_PARTICLES), x),
        "epoch": epoch,
        "log_px": log_px,
        "program": lambda x: step(
            CompiledTrace_ELBO() if elbo == "compiled" else Trace_ELBO(),
            x,
            VAE(PROGRAM_ENCODER, PROGRAM_DECODER, nn.Softplus),
        ),
    }
