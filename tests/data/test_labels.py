"""Names of classes as labels, in data and in a VAE's methods."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse

import pyro_vae
from pyro_vae.data.labels import are_names, numbered
from pyro_vae.data.sources import names_a_column, source_of
from pyro_vae.errors import BadInput

N = 60
X = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
Y = torch.arange(N) % 3
NAMES = np.array(["setosa", "virginica", "a b"])[Y]
CODES = np.array([1, 2, 0])[Y]  # in the order of the names
OPTIONS = {"network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 1, "verbose": False}


@pytest.mark.parametrize(
    "names",
    [
        NAMES, list(NAMES), NAMES.tolist(), NAMES.astype(object), tuple(NAMES.tolist()), pd.Series(NAMES),
        pd.Series(NAMES).astype("category"), pl.Series(NAMES.tolist()), pd.Categorical(NAMES), np.ma.array(NAMES),
    ],
    ids=["str", "list of str_", "list", "object", "tuple", "pandas", "category", "polars", "categorical", "masked"],
)  # fmt: skip
def test_names_are_numbered_in_their_order(names):
    assert are_names(names)
    labels, classes = numbered(names)
    assert labels.tolist() == CODES.tolist()
    assert classes == ("a b", "setosa", "virginica")
    assert {type(name) for name in classes} == {str}


@pytest.mark.parametrize("column", [pd.Series, pd.Categorical])
def test_categories_keep_their_order_without_those_that_do_not_occur(column):
    values = pd.Categorical(["low", "high", None, "low"], categories=["none", "low", "high"])
    labels, classes = numbered(column(values))
    assert labels.tolist() == [0, 1, -1, 0]
    assert classes == ("low", "high")


def test_masked_names_are_missing():
    names = np.ma.array(["b", "c", "a"], mask=[False, True, False])
    assert are_names(names)
    labels, classes = numbered(names)
    assert labels.tolist() == [1, -1, 0]
    assert classes == ("a", "b")


@pytest.mark.parametrize("missing", [None, np.nan, np.float32("nan"), pd.NA, pd.NaT])
def test_missing_names_are_minus_one(missing):
    assert are_names(["b", missing, "a"])
    assert numbered(["b", missing, "a"])[0].tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    "y", [Y, Y.tolist(), Y.numpy(), ["a", 1], [None, None], "a", pd.DataFrame({"a": ["b"]}), None, 3]
)
def test_what_holds_no_names(y):
    assert not are_names(y)


@pytest.mark.parametrize("x", [X, pd.DataFrame(X.numpy(), columns=list("abcdef"))], ids=["array", "frame"])
def test_a_model_of_names_is_that_of_their_numbers(x, tmp_path):
    options = {**OPTIONS, "likelihood": "bernoulli", "conditioning": "concat"}
    vae = pyro_vae.fit(x, y=NAMES.tolist(), run_dir=tmp_path / "run", **options)
    expected = pyro_vae.fit(x, y=CODES, **options)
    assert torch.equal(vae.encode(x, y=NAMES), expected.encode(x, y=CODES))
    loaded = pyro_vae.load(tmp_path / "run")
    assert loaded.classes == ("a b", "setosa", "virginica")
    assert torch.equal(loaded.encode(x[:5], y="setosa"), expected.encode(x[:5], y=1))
    for y, code in (("setosa", 1), (["setosa", "virginica"], [1, 2]), (np.array(["virginica", "a b"]), [2, 0])):
        with torch.random.fork_rng():
            named = loaded.sample(2, y=y, mean=True)
        with torch.random.fork_rng():
            assert torch.equal(named, expected.sample(2, y=code, mean=True))
    assert loaded.decode(torch.zeros(2, 2), y="setosa").shape == (2, 6)


def test_a_table_keeps_the_names(tmp_path):
    frame = pd.DataFrame({"a": X.sum(1).numpy() + np.linspace(0, 1, N), "b": np.linspace(-1, 2, N) ** 3})
    vae = pyro_vae.fit(frame, y=pd.Series(NAMES), conditioning="prior", **OPTIONS)
    assert vae.classes == ("a b", "setosa", "virginica")
    assert vae.sample(3, y="setosa", as_frame="pandas").shape == (3, 2)


def test_missing_names_are_for_semi_supervised_models():
    some = [name if i % 4 else None for i, name in enumerate(NAMES.tolist())]
    vae = pyro_vae.fit(X, y=some, conditioning="semi_supervised", **OPTIONS)
    assert vae.predict_class(X).shape == (N, 3)
    assert vae.classes == ("a b", "setosa", "virginica")
    with pytest.raises(BadInput, match="labels are missing .-1., which only conditioning=semi_supervised allows"):
        pyro_vae.fit(X, y=some, conditioning="concat", **OPTIONS)


def test_unknown_names_are_refused():
    named = pyro_vae.fit(X, y=NAMES, conditioning="prior", **OPTIONS)
    numbers = pyro_vae.fit(X, y=CODES, conditioning="prior", **OPTIONS)
    use = {
        "sample": lambda vae, y: vae.sample(2, y=y),
        "log_prob": lambda vae, y: vae.log_prob(X[:2], y=[y, y], estimator="importance", num_samples=5),
    }
    use["one for all"] = lambda vae, y: vae.log_prob(X[:2], y=y, estimator="importance", num_samples=5)
    for call in use.values():
        with pytest.raises(BadInput, match="y holds setoza, which is not one of the classes a b, setosa, virginica"):
            call(named, "setoza")
        with pytest.raises(BadInput, match="y holds setosa, but the classes have no names: give labels 0, 1, 2"):
            call(numbers, "setosa")
    with pytest.raises(BadInput, match="y holds setoza"):
        pyro_vae.fit(X, y=NAMES, validation_data=(X[:2], ["setosa", "setoza"]), conditioning="prior", **OPTIONS)


def test_texts_of_covariates_are_not_names():
    y = pd.DataFrame({"sex": np.array(["f", "m"])[Y % 2], "kind": NAMES})
    for covariates, row in ((y, ["m", "a b"]), (y, ("f", "setosa")), (y[["sex"]], ["m"])):
        vae = pyro_vae.fit(X, y=covariates, conditioning="concat", **OPTIONS)
        assert vae.encode(X[:2], y=row).shape == (2, 2)
        assert torch.equal(
            vae.encode(X[:1], y=row), vae.encode(X[:1], y=pd.DataFrame([row], columns=covariates.columns))
        )


@pytest.mark.parametrize("library", ["pandas.DataFrame", "polars.DataFrame", "pyarrow.table"])
def test_names_of_columns_and_of_classes_are_told_apart(library):
    module, name = library.split(".")
    library = getattr(pytest.importorskip(module), name)
    columns = {name: X[:, i].double().numpy() + np.linspace(0, 1, N) for i, name in enumerate("pqr")}
    frame = library({**columns, "species": NAMES})
    by_column = source_of(frame, ["species", "p"])
    assert list(pl.DataFrame(by_column.x).columns) == ["q", "r"]
    assert source_of(library(columns), NAMES.tolist()).classes == ("a b", "setosa", "virginica")
    assert source_of(library(columns), ["p", "q", "r"] * (N // 3)).classes == ("p", "q", "r")
    with pytest.raises(BadInput, match="y names setosa, which is not a column of x"):
        source_of(frame, ["setosa"])


def test_a_column_has_precedence_over_a_class_of_the_same_name():
    columns = {name: X[:, i].double().numpy() + np.linspace(0, 1, N) for i, name in enumerate("pqr")}
    frame = pd.DataFrame({**columns, "setosa": NAMES})
    assert names_a_column(frame, "setosa")
    assert not names_a_column(frame, "virginica")
    assert not names_a_column(X, "setosa")


def test_names_for_a_model_without_labels_are_refused_as_labels_are():
    vae = pyro_vae.fit(X, **OPTIONS)
    for y in ("setosa", ["setosa", "setosa"], [0, 1]):
        with pytest.raises(BadInput, match="y is given, but this VAE does not depend on labels"):
            vae.log_prob(X[:2], y=y)


@pytest.mark.slow
def test_names_in_a_file(tmp_path, command):
    np.savez(tmp_path / "x.npz", x=X.numpy(), species=NAMES)
    run = tmp_path / "run"
    options = ["data=array", f"data.path={tmp_path / 'x.npz'}", "data.key=x", "data.label_key=species"]
    small = ["network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1", "estimator=none", "plots=false"]
    assert command("train", *options, *small, "conditioning=prior", f"hydra.run.dir={run}").code == 0
    assert pyro_vae.load(run).classes == ("a b", "setosa", "virginica")
    rows = [f"path={tmp_path / 'x.npz'}", "key=x", "label_key=species"]
    assert command("score", f"run={run}", *[f"data.{row}" for row in rows], "estimator=importance").code == 0


def test_sparse_data_are_imputed_and_scored_as_dense_ones():
    vae = pyro_vae.fit(X, **OPTIONS)
    rows, few = sparse.csr_matrix(X.numpy()), {"estimator": "importance", "num_samples": 10, "num_steps": 2}
    mask = torch.ones(6, dtype=torch.bool)
    assert torch.equal(vae.impute(rows, mask, num_samples=1, num_steps=2)[0], X)
    assert vae.anomaly_score(rows[:3], **few).log_px.shape == (3,)
