"""A lower bound on times: only the matrix products of a work, in float32, into preallocated memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.benchmark.works import BATCH, BLOCK, DECODER, ENCODER, IWAE_PARTICLES, NUM_SAMPLES, Setup, Timed
from pyro_vae.compilation import onednn

Product = tuple[Tensor, Tensor, Tensor]
"""Two factors and the tensor for their product."""
Kernel = Callable[[Tensor, Tensor, Tensor], Any]
"""Writes the product of two matrices to the third."""
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


def kernels() -> dict[str, Kernel]:
    """Return the available kernels by name."""
    found: dict[str, Kernel] = {"torch's default kernel": lambda a, b, out: torch.mm(a, b, out=out)}
    if (product := onednn.kernel()) is not None:
        found["oneDNN"] = lambda a, b, out: product(a, b, out=out)
    return found


def fastest(product: Product, among: dict[str, Kernel], repeats: int = 10) -> tuple[str, float]:
    """Return the name of the kernel that computes a product fastest, and the shortest time in seconds."""
    taken = dict.fromkeys(among, float("inf"))
    for _ in range(repeats):
        for name, kernel in among.items():
            started = time.perf_counter()
            kernel(*product)
            taken[name] = min(taken[name], time.perf_counter() - started)
    name = min(taken, key=lambda name: taken[name])
    return name, taken[name]


def peak(size: int = 2048) -> dict[str, Any]:
    """Return the largest number of GFLOP/s that a kernel reaches in a product of square matrices."""
    a, b = torch.randn(2, size, size)
    name, seconds = fastest((a, b, torch.empty(size, size)), kernels())
    return {"gflops": 2e-9 * size**3 / seconds, "kernel": name, "size": size}


def works() -> dict[str, Setup]:
    """Return the setups of all works; an epoch has the products of its steps."""

    def timed(products: list[Product], units: float = 1) -> Timed:
        available = kernels()
        calls = [partial(available[fastest(product, available)[0]], *product) for product in products]

        def run(n: int) -> None:
            for _ in range(n):
                for call in calls:
                    call()

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
