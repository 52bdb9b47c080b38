"""A lower bound on times: only the matrix products of a work, in float32, into preallocated memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae.benchmark.works import BATCH, BLOCK, DECODER, ENCODER, IWAE_PARTICLES, NUM_SAMPLES, Setup, Timed

Product = tuple[Tensor, Tensor, Tensor]
"""Two factors and the tensor for their product."""
Layers = list[tuple[int, int, int]]
"""Rows, inputs and outputs of linear layers."""


def forward(layers: Layers) -> list[Product]:
    """Return x Wᵀ for each layer, with W `[outputs, inputs]` as in torch."""
    return [(torch.randn(rows, m), torch.randn(n, m).t(), torch.empty(rows, n)) for rows, m, n in layers]


def backward(layers: Layers) -> list[Product]:
    """Return ∂W = ∂yᵀ x for each layer and ∂x = ∂y W for all but the first, whose input is data."""
    products = []
    for i, (rows, m, n) in enumerate(layers):
        dy = torch.randn(rows, n)
        products.append((dy.t(), torch.randn(rows, m), torch.empty(n, m)))
        if i > 0:
            products.append((dy, torch.randn(n, m), torch.empty(rows, m)))
    return products


def step(num_data: int, num_particles: int = 1) -> list[Product]:
    """Return the products of a training step."""
    layers = [(num_data, *layer) for layer in ENCODER] + [(num_data * num_particles, *layer) for layer in DECODER]
    return forward(layers) + backward(layers)


def works() -> dict[str, Setup]:
    """Return the setups of all works; an epoch has the products of its steps."""

    def timed(products: list[Product], units: float = 1) -> Timed:
        def run(n: int) -> None:
            for _ in range(n):
                for a, b, out in products:
                    torch.mm(a, b, out=out)

        return Timed(run, units)

    def of_step(x: np.ndarray) -> Timed:
        return timed(step(len(x)))

    return {
        "step_100": of_step,
        "step_1000": of_step,
        "iwae_50": lambda x: timed(step(len(x), IWAE_PARTICLES)),
        "epoch": lambda x: timed(step(BATCH)),
        "log_px": lambda x: timed(forward([(BLOCK, *layer) for layer in DECODER]), BLOCK / NUM_SAMPLES),
    }
