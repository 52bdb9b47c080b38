"""Validation and test data in files of their own, as fixed splits are."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, one_error_line

from pyro_vae.data import array, fingerprint, table
from pyro_vae.data.fingerprint import difference
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
    one_error_line(command(*ask), "data.test_path=", "test.npy: no such file")
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


def test_labels_have_the_names_of_the_training_data(tmp_path):
    rng = np.random.default_rng(0)
    for name, names in (("train", ["dog", "cat", "emu"]), ("val", ["emu", "cat"])):
        labels = np.array(names)[rng.integers(len(names), size=30)]
        np.savez(tmp_path / f"{name}.npz", x=rng.random((30, 3)).astype(np.float32), y=labels)
    data = array(str(tmp_path / "train.npz"), label_key="y", val_path=str(tmp_path / "val.npz"))
    assert data.classes == ("cat", "dog", "emu")
    assert data.val.y.unique().tolist() == [0, 2]
    with pytest.raises(BadInput, match="test_path=.*train.npz holds dog, which is not one of the classes cat, emu"):
        array(str(tmp_path / "val.npz"), label_key="y", test_path=str(tmp_path / "train.npz"))


def test_what_is_wrong_with_a_file_is_told_by_its_option(tmp_path):
    write(tmp_path, "npy")
    write(tmp_path, "csv")
    train = str(tmp_path / "train.npy")
    for option in ("val_path", "test_path"):
        with pytest.raises(BadInput, match=f"^{option}=/nowhere.npy: no such file"):
            array(train, **{option: "/nowhere.npy"})
        with pytest.raises(BadInput, match=f"^{option}=/nowhere.csv: no such file"):
            table(str(tmp_path / "train.csv"), **{option: "/nowhere.csv"})
    pd.read_csv(tmp_path / "test.csv").drop(columns="age").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(BadInput, match="test_path=.*less.csv lacks the covariates age, which x has"):
        table(str(tmp_path / "train.csv"), y="age", test_path=str(tmp_path / "less.csv"))
    np.save(tmp_path / "bytes.npy", np.random.default_rng(0).integers(256, size=(30, 3), dtype=np.uint8))
    np.save(tmp_path / "grey.npy", 255 * np.load(tmp_path / "test.npy"))
    with pytest.raises(BadInput, match=r"grey.npy has dtype float32 and values up to 2.*, but x holds bytes"):
        array(str(tmp_path / "bytes.npy"), test_path=str(tmp_path / "grey.npy"))
    assert array(str(tmp_path / "bytes.npy"), test_path=str(tmp_path / "test.npy")).sizes["test"] == 9


def test_numbers_of_the_training_file_are_numbers_in_the_others(tmp_path):
    for name, codes in (("train", ["1", "2", "12"]), ("test", ["01", "02", "12"])):
        frame = pd.DataFrame({"month": codes * 10, "v": np.linspace(0, 1, 30) ** 2})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    train, test = (str(tmp_path / f"{name}.csv") for name in ("train", "test"))
    for kind in ("real", "ordinal", [1, 2, 12]):
        data = table(train, test_path=test, kinds={"month": kind})
        assert data.test.x[:3, 0].tolist() == ([1, 2, 12] if kind == "real" else [0, 1, 2])
    assert table(test, kinds={"month": [1, 2, 12]}).columns[0]["categories"] == [1, 2, 12]
    assert table(test, kinds={"month": "categorical"}).columns[0]["categories"] == ["01", "02", "12"]
    assert table(test, y="month").covariates[0]["kind"] == "real"


def test_other_training_data_are_noticed(tmp_path):
    write(tmp_path, "npy")
    train, *others = (str(tmp_path / f"{name}.npy") for name in ("train", "val", "test"))
    before = fingerprint(array(train, val_path=others[0], test_path=others[1]))
    assert difference(before, before) is None
    np.save(train, np.load(train)[::-1])
    now = fingerprint(array(train, val_path=others[0], test_path=others[1]))
    assert difference(before, now) == "other datapoints in split=train, or the same in another order"
    del before["train"]  # as earlier versions left it out
    assert difference(before, now) is None


def test_a_number_with_a_leading_zero_does_not_excuse_text_among_numbers(tmp_path):
    pd.DataFrame({"a": ["01", "2", "oops"] * 10, "b": range(30)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match="column a mixes numbers and text, such as '01' and 'oops'"):
        table(str(tmp_path / "t.csv"))
