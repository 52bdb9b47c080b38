"""The floor: the matrix products of a work alone, in float32, into memory that is there already."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae.benchmark.works import BATCH, BLOCK, DECODER, ENCODER, IWAE_PARTICLES, NUM_SAMPLES, Setup, Timed

Product = tuple[Tensor, Tensor, Tensor]
"""Two factors and where their product goes."""
Layers = list[tuple[int, int, int]]
"""Rows, inputs and outputs of linear layers."""


def forward(layers: Layers) -> list[Product]:
    """x Wᵀ of each layer, W `[outputs, inputs]` as in torch."""
    return [(torch.randn(rows, m), torch.randn(n, m).t(), torch.empty(rows, n)) for rows, m, n in layers]


def backward(layers: Layers) -> list[Product]:
    """∂Wᵀ = ∂yᵀ x of each layer and ∂x = ∂y W of all but the first, whose input is data."""
    products = []
    for i, (rows, m, n) in enumerate(layers):
        dy = torch.randn(rows, n)
        products.append((dy.t(), torch.randn(rows, m), torch.empty(n, m)))
        if i > 0:
            products.append((dy, torch.randn(n, m), torch.empty(rows, m)))
    return products


def step(num_data: int, num_particles: int = 1) -> list[Product]:
    """Of a training step."""
    layers = [(num_data, *layer) for layer in ENCODER] + [(num_data * num_particles, *layer) for layer in DECODER]
    return forward(layers) + backward(layers)


def works() -> dict[str, Setup]:
    """Setups of all works; the epoch's products are those of its steps."""

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
