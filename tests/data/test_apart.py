"""Validation and test data in files of their own, as fixed splits are."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, one_error_line

from pyro_vae.data import array, table
from pyro_vae.errors import BadInput


def write(folder, suffix):
    rng = np.random.default_rng(0)
    for name, n in (("train", 40), ("val", 7), ("test", 9)):
        x, y = rng.random((n, 3)).astype(np.float32), rng.integers(2, size=n)
        if suffix == "csv":
            pd.DataFrame(x, columns=["a", "b", "c"]).assign(age=y + 0.5).to_csv(folder / f"{name}.csv", index=False)
        elif suffix == "npz":
            np.savez(folder / f"{name}.npz", x=x, y=y)
        else:
            np.save(folder / f"{name}.npy", x)


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_files_take_the_place_of_shares(tmp_path, suffix):
    write(tmp_path, suffix)
    options = {"npy": {}, "npz": {"label_key": "y"}, "csv": {"y": "age"}}[suffix]
    files = {f"{name}_path": str(tmp_path / f"{name}.{suffix}") for name in ("val", "test")}
    load = table if suffix == "csv" else array
    data = load(str(tmp_path / f"train.{suffix}"), **files, **options)
    assert data.sizes == {"train": 40, "val": 7, "test": 9}
    parts = {name: data.split(name, n) for name, n in data.sizes.items()}
    rng = np.random.default_rng(0)
    for name, split in parts.items():
        x, y = rng.random((len(split), 3)).astype(np.float32), rng.integers(2, size=len(split))
        order = split.rows
        np.testing.assert_allclose(split.x, x[order], rtol=1e-6)
        assert name == "train" or order.tolist() == list(range(len(split)))
        if suffix != "npy":
            assert split.y.flatten().tolist() == [value + 0.5 * (suffix == "csv") for value in y[order]]
    data = load(str(tmp_path / f"train.{suffix}"), test_path=files["test_path"], **options)
    assert data.sizes == {"train": 36, "val": 4, "test": 9}
    np.save(tmp_path / "other.npy", torch.zeros(3, 4))
    if suffix == "npy":
        with pytest.raises(BadInput, match=r"test_path=.*other.npy has shape \[3, 4\]: x has \[N, 3\]"):
            array(str(tmp_path / "train.npy"), test_path=str(tmp_path / "other.npy"))


def test_a_run_is_evaluated_and_scored_on_its_own_test_file(command, tmp_path):
    write(tmp_path, "npy")
    places = [f"data.{key}={name}.npy" for key, name in (("path", "train"), ("val_path", "val"), ("test_path", "test"))]
    outcome = command("train", *SMALL, *places, "likelihood=gaussian", "plots=false", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["num_data"] == 9
    shutil.move("test.npy", "moved.npy")
    ask = ("evaluate", "run=run", "estimator=elbo", "plots=false")
    one_error_line(command(*ask), "test.npy")
    assert command(*ask, "data.test_path=moved.npy").code == 0
    np.save("moved.npy", np.load("moved.npy")[::-1])
    one_error_line(
        command(*ask, "data.test_path=moved.npy"), "run was trained on other data: other datapoints in split=test"
    )
    score = ("score", "run=run", "data.path=val.npy", "estimator=importance", "estimator.num_samples=50", "plots=false")
    np.save("moved.npy", np.load("moved.npy")[::-1])
    outcome = command(*score, "held_out.test_path=moved.npy")
    assert outcome.code == 0, outcome.err
    assert "new rows: log p(x) is " in outcome.out
    assert "held-out datapoints: log p(x) is " in outcome.out
