"""Impute breast cancer and Iris as in the notebooks of Mattei & Frellsen (2019), MIWAE, https://arxiv.org/abs/1812.02633.

python docs/reproductions/miwae.py OUT.json [NUM_SEEDS]

Half of the entries are removed completely at random. A model of 10 latents, networks of two hidden layers of 128 and a
Student-t likelihood learns from the observed entries by the IWAE bound, K = 20. The missing entries are imputed by
E[x_mis | x_obs], from 10,000 importance samples.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer, load_iris

import pyro_vae

WORKS = {
    "breast cancer": (load_breast_cancer, 1001, 0.287),
    "Iris": (load_iris, 2001, 0.444),
}
"""The data, the epochs, and the mean squared error in the authors' notebook."""


def error(x: torch.Tensor, max_epochs: int, seed: int) -> float:
    """Return the mean squared error of the imputed entries of standardized data `[N, P]`."""
    generator = torch.Generator().manual_seed(seed)
    missing = torch.rand(x.shape, generator=generator) < 0.5
    vae = pyro_vae.fit(
        torch.where(missing, torch.nan, x),
        likelihood="student_t",
        objective=("iwae", {"num_particles": 20}),
        network=("mlp", {"hidden": [128, 128]}),
        latent_dim=10,
        max_epochs=max_epochs,
        batch_size=64,
        val_fraction=0,
        standardize=False,
        seed=seed,
        verbose=False,
    )
    imputed = vae.impute(x, ~missing, method="importance", num_steps=10_000, mean=True)[0]
    return (imputed - x)[missing].square().mean().item()


def main() -> None:
    """Write the errors of all data sets."""
    out, num_seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    rows = []
    for name, (load, max_epochs, published) in WORKS.items():
        x = torch.tensor(load().data, dtype=torch.float32)
        x = (x - x.mean(0)) / x.std(0, correction=0)
        start = time.process_time()
        errors = [error(x, max_epochs, seed) for seed in range(num_seeds)]
        rows.append(
            {
                "data": name,
                "epochs": max_epochs,
                "seconds": (time.process_time() - start) / num_seeds,
                "mse": statistics.mean(errors),
                "sd": statistics.stdev(errors),
                "published": published,
            }
        )
        print(rows[-1], flush=True)
        out.write_text(json.dumps({"table": "missing", "num_seeds": num_seeds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
