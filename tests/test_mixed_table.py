"""A table of mixed columns with holes from a known generator: better than the baselines, and than means and modes."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import pyro_vae

N, NUM_TRAIN = 2000, 1600
REAL, COUNT, CATEGORY = ("height", "weight"), ("visits",), ("colour", "smoker")


def table() -> pl.DataFrame:
    """Return N rows of columns that depend on two latent variables."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, 2))
    logits = 2.5 * z @ rng.normal(size=(2, 3)) + rng.gumbel(size=(N, 3))
    return pl.DataFrame(
        {
            "height": 170 + 8 * z[:, 0] + 2 * rng.normal(size=N),
            "weight": 70 + 6 * z[:, 0] + 6 * z[:, 1] + 3 * rng.normal(size=N),
            "visits": rng.poisson(np.exp(1 + 0.7 * z[:, 1])),
            "colour": np.array(["red", "green", "blue"])[logits.argmax(1)],
            "smoker": np.where(z[:, 1] + 0.4 * rng.normal(size=N) > 0, "yes", "no"),
        }
    )


def with_holes(frame: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """Return the rows without 30 % of their cells, and where these are, `[N, 5]`."""
    holes = np.random.default_rng(1).random((len(frame), len(frame.columns))) < 0.3
    columns = [
        pl.when(pl.Series(hole)).then(None).otherwise(pl.col(name)).alias(name)
        for name, hole in zip(frame.columns, holes.T, strict=True)
    ]
    return frame.with_columns(columns), holes


@pytest.mark.slow
def test_a_mixed_table_is_learned(command, tmp_path):
    complete = table()
    rows, holes = with_holes(complete)
    path = Path("mixed.csv")
    rows[:NUM_TRAIN].write_csv(path)
    outcome = command(
        "train", "data=table", f"data.path={path}", "latent_dim=2", "network.hidden=[64]", "trainer.max_epochs=60",
        "optimizer.lr=3e-3", "plots=false", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["log_px"] > test["baseline"]
    assert test["unreliable"] < 0.02

    vae = pyro_vae.load(tmp_path / "run")
    new, truth, missing = rows[NUM_TRAIN:], complete[NUM_TRAIN:], holes[NUM_TRAIN:]
    drawn = vae.impute(new, num_samples=20)
    for name, hole in zip(rows.columns, missing.T, strict=True):
        known, values = rows[name][:NUM_TRAIN].drop_nulls(), truth[name].to_numpy()[hole]
        draws = np.stack([frame[name].to_numpy()[hole] for frame in drawn])
        if name in CATEGORY:
            guess = [max(set(each), key=list(each).count) for each in draws.T.tolist()]
            assert np.mean(guess == values) > np.mean(known.mode()[0] == values) + 0.05, name
        else:
            error = np.mean((draws.mean(0) - values) ** 2)
            assert error < 0.8 * np.mean((known.mean() - values) ** 2), name
