"""`fit` of data frames, and data frames that come out."""

import logging

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import pyro_vae
from pyro_vae import BadInput
from pyro_vae.data import to_x
from pyro_vae.likelihoods import Gaussian, Table

SMALL = {"network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 2, "verbose": False}
N = 100


def frame(library=pl):
    rng = np.random.default_rng(0)
    z = rng.normal(size=N)
    content = {
        "height": (170 + 10 * z).tolist(),
        "visits": rng.poisson(np.exp(1 + z)).tolist(),
        "member": (z + rng.normal(size=N) > 0).tolist(),
        "size": rng.choice(["S", "M", "L"], N).tolist(),
        "version": [3] * N,
    }
    for name in ("height", "visits", "size"):
        content[name] = [None if rng.random() < 0.2 else value for value in content[name]]
    return library.DataFrame(content)


@pytest.fixture(scope="module")
def vae():
    return pyro_vae.fit(frame(), kinds={"size": ["S", "M", "L"]}, **SMALL)


def test_a_data_frame_is_a_table(vae):
    assert isinstance(vae.likelihood, Table)
    kinds = {column.name: column.kind for column in vae.likelihood.columns}
    assert kinds == {"height": "real", "visits": "count", "member": "binary", "size": "ordinal", "version": "ignore"}
    assert vae.data_shape == (4,)


@pytest.mark.parametrize("library", [pd, pl])
def test_methods_accept_data_frames(vae, library):
    rows = frame(library)[:5]
    assert vae.encode(rows).shape == (5, 2)
    assert vae.log_prob(rows, 20, estimator="importance").isfinite().all()
    drawn = vae.impute(rows, num_samples=2, num_steps=2)
    assert len(drawn) == 2
    for one in drawn:
        assert isinstance(one, library.DataFrame)
        assert list(one.columns) == list(rows.columns)
        assert vae.encode(one).isfinite().all()
        for name in rows.columns:
            for before, after in zip(list(rows[name]), list(one[name]), strict=True):
                assert after is not None
                assert before is None or before != before or after == before


def test_a_mask_hides_cells_of_a_data_frame(vae):
    rows = frame()[:3]
    mask = np.ones((3, 4), bool)
    mask[:, 3] = False
    (drawn,) = vae.impute(rows, mask=mask, num_samples=1, num_steps=2)
    assert set(drawn["size"]) <= {"S", "M", "L"}
    assert torch.equal(vae.encode(rows.with_columns(size=pl.lit(None, pl.String))), vae.encode(masked(rows, mask)))


def masked(rows, mask):
    x = torch.tensor([[np.nan if v is None else float(v) for v in row[:3]] + [np.nan] for row in rows.rows()])
    return x


def test_samples_come_as_data_frames(vae):
    drawn = vae.sample(20, as_frame="pandas")
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.columns) == ["height", "visits", "member", "size"]
    assert drawn["visits"].dtype == int
    assert set(drawn["size"]) <= {"S", "M", "L"}
    assert drawn["member"].dtype == bool
    assert isinstance(vae.sample(2, as_frame="polars"), pl.DataFrame)
    assert vae.encode(drawn).shape == (20, 2)
    with pytest.raises(BadInput, match="as_frame=excel is unknown: choose one of pandas, polars"):
        vae.sample(2, as_frame="excel")


def test_only_tables_become_data_frames(small_vae):
    with pytest.raises(BadInput, match="as_frame=pandas needs data whose columns have names"):
        small_vae.sample(2, as_frame="pandas")


def test_other_tables_are_refused_by_name(vae):
    rows = frame(pd)[:5]
    for method in (vae.encode, vae.log_prob, vae.reconstruct, vae.impute):
        with pytest.raises(BadInput, match="column size holds 'XL', which is not one of its categories S, M, L"):
            method(rows.assign(size="XL"))
        with pytest.raises(BadInput, match="x lacks the column visits"):
            method(rows.drop(columns="visits"))
    with pytest.raises(BadInput, match="column visits is count and needs counts"):
        vae.encode(torch.tensor([[170.0, 1.5, 0.0, 1.0]]))


def test_a_run_directory_keeps_the_schema(vae, tmp_path):
    vae.save(tmp_path / "run")
    loaded = pyro_vae.load(tmp_path / "run")
    assert loaded.likelihood.columns == vae.likelihood.columns
    rows = frame()[:5]
    assert torch.equal(loaded.encode(rows), vae.encode(rows))


def test_validation_data_have_the_same_columns():
    options = {**SMALL, "max_epochs": 1}
    table = frame().drop("version")
    vae = pyro_vae.fit(table[:80], kinds={"size": ["S", "M", "L"]}, validation_data=table[80:], **options)
    assert vae.data_shape == (4,)
    with pytest.raises(BadInput, match="validation_data lacks the column size"):
        pyro_vae.fit(table[:80], validation_data=table[80:].drop("size"), **options)


def test_another_likelihood_takes_the_numbers():
    numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)).astype("float32"), columns=list("abc"))
    vae = pyro_vae.fit(numbers, likelihood="gaussian", **SMALL)
    assert isinstance(vae.likelihood, Gaussian)
    assert isinstance(pyro_vae.fit(numbers, **SMALL).likelihood, Table)


def test_settings_of_the_likelihood():
    vae = pyro_vae.fit(frame()[["height"]], likelihood=("table", {"scale": "per_row"}), **{**SMALL, "max_epochs": 1})
    assert vae.likelihood.param_shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": {"wide": "real"}}, "kinds names wide, which is not a column of x"),
        ({"kinds": {"size": "ordinal"}}, r"column size is ordinal: give its categories in order, as in kinds="),
        ({"kinds": {"size": "real"}}, r"column size holds text \('L'\)"),
        ({"binarize": "threshold"}, "binarize=threshold does not apply to pyro_vae.data.table"),
        ({"likelihood": "gaussian", "kinds": {"height": "real"}}, "kinds={'height': 'real'} does not apply"),
    ],
)
def test_wrong_calls(options, message):
    with pytest.raises(BadInput, match=message):
        pyro_vae.fit(frame(), **{**SMALL, **options})


def test_the_encoder_sees_which_cells_are_empty(vae):
    assert vae.missing
    x = torch.tensor([[170.0, 2.0, 1.0, 0.0]])
    hole = x.clone()
    hole[0, 1] = np.nan
    seen = vae.standardize(hole)[0]
    assert torch.equal(seen, torch.cat([vae.standardize.inner(hole)[0], torch.tensor([1.0, 0.0, 1.0, 1.0])]))
    z = torch.randn(3, 1, 2)
    by_column = vae.p_x(z).log_prob_by_column(x)
    difference = vae.log_joint(x, None, z) - vae.log_joint(hole, None, z)
    assert torch.allclose(difference, by_column[..., 1], atol=1e-4)


def test_a_model_of_a_complete_table_accepts_holes():
    complete = frame().drop_nulls()
    vae = pyro_vae.fit(complete, kinds={"size": ["S", "M", "L"]}, **{**SMALL, "max_epochs": 1})
    assert not vae.missing
    rows = frame()[:5]
    assert vae.log_prob(rows, 20, estimator="importance").isfinite().all()
    (filled,) = vae.impute(rows, method="importance", num_samples=1)
    assert not any(filled.null_count().row(0))


def test_a_column_without_training_values_is_refused():
    rare = frame().with_columns(rare=pl.lit(None, pl.Float64))
    with pytest.raises(BadInput, match=r"column rare has no value in the training rows: .* kinds={rare: ignore}"):
        pyro_vae.fit(rare, kinds={"rare": "real"}, **SMALL)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_means_of_counts_are_floats(vae, library):
    module = {"pandas": pd, "polars": pl}[library]
    rows = frame(module)[:20]
    (single,) = vae.impute(rows, method="importance", mean=True, num_steps=20)
    visits = np.array(single["visits"])
    assert visits.dtype == float
    holes = np.array([cell is None or cell != cell for cell in rows["visits"]])
    assert (visits[holes] != visits[holes].round()).any()
    drawn = vae.sample(5, mean=True, as_frame=library)["visits"]
    assert np.array(drawn).dtype == float


def test_a_data_frame_as_a_tensor(vae):
    x = to_x(frame(), vae.likelihood.columns)
    assert torch.equal(vae.encode(x), vae.encode(frame()))
    alone = vae.likelihood.marginals(x)
    assert torch.allclose(alone.log_prob_by_column(x).sum(1), alone.log_prob(x))
    height = x[:, 0][~x[:, 0].isnan()].double()
    normal = torch.distributions.Normal(height.mean(), height.std(correction=0))
    assert alone.log_prob_by_column(x)[~x[:, 0].isnan(), 0].double().mean() == pytest.approx(
        normal.log_prob(height).mean().item(), abs=1e-4
    )


def test_names_of_the_columns_of_x(vae, small_vae):
    assert vae.column_names == ["height", "visits", "member", "size"]  # version is left out
    assert small_vae.column_names == []


def test_warnings_point_at_the_callers_line(vae):
    rows = frame()[:5]
    with pytest.warns(UserWarning, match="effective sample size below 100") as told:
        vae.impute(rows, method="importance", num_steps=20)
    fewer, held_out = rows.with_columns(member=None, visits=None, size=None), frame().drop_nulls()[:5]
    settings = {"num_steps": 1, "estimator": "importance", "num_samples": 500}
    with pytest.warns(UserWarning, match="do not have 4 observed entries") as also:
        vae.anomaly_score(fewer, held_out=held_out, **settings)
    assert {each.filename for each in (*told, *also)} == {__file__}


def test_columns_of_numbers_are_known_by_name(tmp_path):
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(200, 3)) * [1, 5, 50] + [0, 20, -300], columns=["a", "b", "c"])
    settings = {"likelihood": "gaussian", "latent_dim": 2, "max_epochs": 3, "verbose": False}
    vae = pyro_vae.fit(x, validation_data=x[["c", "a", "b"]][:50], run_dir=tmp_path / "run", **settings)
    twin = pyro_vae.fit(x, validation_data=x[:50].to_numpy(), **settings)
    assert vae.history[-1]["val/elbo"] == twin.history[-1]["val/elbo"]
    for one in (vae, pyro_vae.load(tmp_path / "run")):
        assert one.column_names == ["a", "b", "c"]
        torch.testing.assert_close(one.encode(x[["b", "c", "a"]]), twin.encode(x.to_numpy()))
        with pytest.raises(BadInput, match="x lacks the column c: the model has columns a, b, c"):
            one.encode(x[["a", "b"]])
        with pytest.raises(BadInput, match="x has a column d, which the training data did not have: drop it"):
            one.encode(x.assign(d=1.0))
        sample = one.sample(2, as_frame="pandas")
        assert list(sample) == ["a", "b", "c"]
    torch.testing.assert_close(vae.encode(x.set_axis([0, 1, 2], axis=1)), twin.encode(x.to_numpy()))  # without names
    assert pyro_vae.fit(x.to_numpy(), **settings | {"max_epochs": 1}).column_names == []
    mask = x.notna().assign(b=False)[["c", "b", "a"]]
    drawn = vae.impute(x[:4], mask[:4], num_samples=1)[0]
    torch.testing.assert_close(drawn[:, [0, 2]].double(), torch.from_numpy(x[:4].to_numpy()[:, [0, 2]]))


def test_covariates_do_not_disturb_the_names():
    x = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 3)), columns=["a", "age", "b"])
    settings = {"likelihood": "gaussian", "conditioning": "prior", "latent_dim": 2, "max_epochs": 1, "verbose": False}
    vae = pyro_vae.fit(x, y="age", validation_data=x[["b", "age", "a"]][:20], **settings)
    assert vae.column_names == ["a", "b"]
    torch.testing.assert_close(vae.log_prob(x[["b", "a", "age"]][:3], 10), vae.log_prob(x[:3], 10), rtol=0, atol=5)
    torch.testing.assert_close(vae.encode(x[["age", "b", "a"]]), vae.encode(x[["a", "b"]].to_numpy()))


def test_kinds_are_told(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest
    x = pd.DataFrame({"visits": np.random.default_rng(0).poisson(3, 100), "v": np.linspace(-1, 1, 100)})
    pyro_vae.fit(x, latent_dim=1, max_epochs=1)
    line = "columns: visits count, v real (if visits holds codes, not counts, call it categorical in kinds)"
    assert line in capsys.readouterr().err.splitlines()
    pyro_vae.fit(x, latent_dim=1, max_epochs=1, verbose=False)
    assert "columns" not in capsys.readouterr().err
