"""Implements the model by hand in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.benchmark.works import (
    BATCH,
    BLOCK,
    DECODER,
    ENCODER,
    IWAE_PARTICLES,
    LEARNING_RATE,
    NUM_SAMPLES,
    Layers,
    Setup,
    Timed,
)


def mlp(layers: Layers, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Build linear layers with these inputs and outputs, with activations between them."""
    return nn.Sequential(*list(chain.from_iterable((nn.Linear(m, n), activation()) for m, n in layers))[:-1])


class VAE(nn.Module):
    """A VAE with Bernoulli likelihood and diagonal Gaussian guide."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(ENCODER), mlp(DECODER)

    def loss(self, x: Tensor) -> Tensor:
        """Return −ELBO per datapoint in nats, with the KL in closed form."""
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        nll = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 2 * log_scale - 1).sum()
        return (nll + kl) / len(x)

    def log_weights(self, loc: Tensor, log_scale: Tensor, x: Tensor, num_samples: int) -> Tensor:
        """Return log p(x, z) − log q(z | x), `[num_samples, N]`."""
        eps = torch.randn(num_samples, *loc.shape)
        z = loc + log_scale.exp() * eps
        logits = self.decoder(z)
        nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return (0.5 * (eps**2 - z**2) + log_scale).sum(-1) - nll

    def iwae_loss(self, x: Tensor) -> Tensor:
        """Return −L_K per datapoint in nats."""
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        log_w = self.log_weights(loc, log_scale, x, IWAE_PARTICLES)
        return (math.log(IWAE_PARTICLES) - log_w.logsumexp(0)).mean()


def works(compile: bool = False) -> dict[str, Setup]:
    """Return the setups of all works, with or without `torch.compile`."""
    vae = VAE()
    optim = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)
    compiled: Callable[..., Callable[..., Tensor]] = torch.compile if compile else lambda fn: fn

    def training_step(loss_fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        optim.zero_grad(set_to_none=True)
        loss = loss_fn(x)
        loss.backward()
        optim.step()
        return loss.detach()

    def step(loss_fn: Callable[[Tensor], Tensor], x: np.ndarray) -> Timed:
        batch, loss_fn = torch.from_numpy(x), compiled(loss_fn)

        def run(n: int) -> None:
            for _ in range(n):
                training_step(loss_fn, batch)

        return Timed(run)

    def epoch(x: np.ndarray) -> Timed:
        grey, loss_fn = torch.from_numpy(x), compiled(vae.loss)

        def run(n: int) -> None:
            for _ in range(n):
                batches = torch.randperm(len(grey)).split(BATCH)
                losses = [training_step(loss_fn, torch.bernoulli(grey[index])) for index in batches]
                torch.stack(losses).mean().item()

        return Timed(run, len(x) / BATCH)

    def log_px(x: np.ndarray) -> Timed:
        weigh, n_data = compiled(vae.log_weights), math.isqrt(BLOCK)

        @torch.no_grad()
        def run(n: int) -> None:
            for part in torch.from_numpy(x).split(n_data) * n:
                loc, log_scale = vae.encoder(part).chunk(2, dim=-1)
                sizes = [len(draws) for draws in torch.arange(NUM_SAMPLES).split(BLOCK // n_data)]
                blocks = [weigh(loc, log_scale, part, size).double().logsumexp(0) for size in sizes]
                torch.stack(blocks).logsumexp(0) - math.log(NUM_SAMPLES)

        return Timed(run, len(x))

    elbo = partial(step, vae.loss)
    return {
        "step_100": elbo,
        "step_1000": elbo,
        "iwae_50": partial(step, vae.iwae_loss),
        "epoch": epoch,
        "log_px": log_px,
    }
