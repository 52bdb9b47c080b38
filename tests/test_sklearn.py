"""VariationalAutoencoder in scikit-learn's hands."""

import pickle
import random
import subprocess
import sys
from copy import deepcopy
from functools import cache
from importlib import import_module

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils._testing import assert_allclose
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import VariationalAutoencoder
from pyro_vae.errors import BadInput
from pyro_vae.marginal import Importance
from pyro_vae.runs import options
from pyro_vae.runs.config import compose

QUICK = {"max_epochs": 1, "overrides": ("trainer.compile=false",)}
LINEAR = {**QUICK, "hidden": ()}
"""log p(x) of a linear Gaussian model has a closed form."""
MONTE_CARLO = {**QUICK, "hidden": (4,), "estimator": "importance", "num_samples": 10}

NOISE = "estimates of log p(x) from samples differ with the place of a row in X, within their standard errors"
EXPECTED = {"check_methods_sample_order_invariance": NOISE, "check_methods_subset_invariance": NOISE}


@cache
def composed(overrides):
    return compose(list(overrides))


@pytest.fixture(autouse=True)
def compose_once(monkeypatch):
    """scikit-learn's checks fit about 60 times with the same settings, and composing takes half of the time."""
    monkeypatch.setattr(options, "compose", lambda overrides: deepcopy(composed(tuple(overrides))))


@pytest.fixture(name="X")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 1)) * [1.0, 0.5, -2.0] + 0.3 * rng.normal(size=(40, 3)) + 5


@pytest.fixture
def in_float32(request, monkeypatch):
    """Allow for float32 in one check: on some processors, products round differently in batches of other sizes."""
    if request.node.callspec.params["check"].func is not estimator_checks.check_methods_subset_invariance:
        return

    def close(actual, desired, rtol=1e-6, **options):
        assert_allclose(actual, desired, rtol=rtol, **options)

    monkeypatch.setattr(estimator_checks, "assert_allclose", close)


@pytest.mark.slow
@parametrize_with_checks([VariationalAutoencoder(**LINEAR)])
def test_passes_the_checks_of_scikit_learn(estimator, check, in_float32):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([VariationalAutoencoder(**{**QUICK, "hidden": (4,), "max_epochs": 3})])
def test_passes_the_checks_where_log_px_is_integrated(estimator, check, in_float32):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([VariationalAutoencoder(**MONTE_CARLO)], expected_failed_checks=lambda estimator: EXPECTED)
def test_passes_the_checks_but_for_the_noise_of_log_px(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_transformer_get_feature_names_out,
        pytest.param(estimator_checks.check_transformer_get_feature_names_out_pandas, marks=pytest.mark.slow),
        estimator_checks.check_set_output_transform,
        pytest.param(estimator_checks.check_set_output_transform_pandas, marks=pytest.mark.slow),
        pytest.param(estimator_checks.check_set_output_transform_polars, marks=pytest.mark.slow),
        pytest.param(estimator_checks.check_global_output_transform_pandas, marks=pytest.mark.slow),
    ],
)
def test_passes_the_other_checks_of_scikit_learn(check):
    check("VariationalAutoencoder", VariationalAutoencoder(**LINEAR))


def test_log_px_is_that_of_the_data():
    rng = np.random.default_rng(1)
    mean, covariance = np.full(3, 2.0), np.array([[2.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.5]])
    X, test = rng.multivariate_normal(mean, covariance, 600), rng.multivariate_normal(mean, covariance, 1000)
    vae = VariationalAutoencoder(1, hidden=(), max_epochs=60, lr=0.03, random_state=0).fit(X)
    truth = multivariate_normal(mean, covariance)
    loss = truth.logpdf(test).mean() - vae.score(test)  # KL(truth || model), at least 0.01 with one variance for all
    assert -0.01 < loss < 0.12
    assert vae.score(test) == pytest.approx(vae.score_samples(test).mean())
    assert np.abs(vae.sample(2000).mean(0) - mean).max() < 0.2
    errors = vae.inverse_transform(vae.transform(test)) - test
    assert (errors**2).mean() < 0.8 * test.var(0).mean()


def test_serves_in_pipelines_and_cross_validation(X):
    pipeline = Pipeline([("scale", StandardScaler()), ("vae", VariationalAutoencoder(latent_dim=2, **LINEAR))])
    assert np.isfinite(cross_val_score(pipeline, X, cv=2)).all()
    search = GridSearchCV(pipeline, {"vae__latent_dim": np.array([1, 2])}, cv=2).fit(X)
    assert search.best_params_["vae__latent_dim"] in (1, 2)
    assert search.transform(X).shape == (40, search.best_params_["vae__latent_dim"])
    assert search.score(X) == pytest.approx(search.score_samples(X).mean())
    assert search.inverse_transform(search.transform(X)).shape == X.shape


def test_a_seed_reproduces_everything_and_disturbs_nothing(X):
    def states():
        return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    one, other = (VariationalAutoencoder(random_state=3, **MONTE_CARLO).fit(X) for _ in range(2))
    for results in ([vae.transform(X), vae.score_samples(X), vae.sample(4)] for vae in (other, one)):
        for a, b in zip(results, [one.transform(X), one.score_samples(X), one.sample(4)], strict=True):
            np.testing.assert_array_equal(a, b)
    assert states() == before


def test_without_a_seed_numpys_global_generator_is_used(X):
    embeddings, samples = [], []
    for reseed in (True, False, True):
        if reseed:
            np.random.seed(5)
        vae = VariationalAutoencoder(**LINEAR).fit(X)
        embeddings.append(vae.transform(X))
        samples += [vae.sample(2)]
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    np.testing.assert_array_equal(samples[0], samples[2])
    assert (embeddings[0] != embeddings[1]).any()
    assert (vae.sample(2) != vae.sample(2)).any()


def test_takes_and_returns_data_frames(X):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    vae = VariationalAutoencoder(**LINEAR).set_output(transform="pandas").fit(frame)
    assert list(vae.feature_names_in_) == ["a", "b", "c"]
    assert vae.n_features_in_ == 3
    embedding = vae.transform(frame)
    assert list(embedding.columns) == ["variationalautoencoder0", "variationalautoencoder1"]
    assert embedding.index.equals(frame.index)
    with pytest.raises(ValueError, match="feature names should match"):
        vae.score_samples(frame.rename(columns={"a": "A"}))


def test_can_be_cloned_and_pickled_with_all_it_learned(X):
    vae = VariationalAutoencoder(
        likelihood=("gaussian", {"scale": "per_pixel"}), hidden=[4], estimator=Importance(10), random_state=0, **QUICK
    ).fit(X)
    expected = vae.score_samples(X)
    copy = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(copy.score_samples(X), expected)
    assert len(copy.vae_.history) == 1
    with pytest.raises(NotFittedError):
        clone(vae).sample()
    np.testing.assert_array_equal(clone(vae).fit(X).score_samples(X), expected)


def test_rows_are_embedded_alone(X):
    vae = VariationalAutoencoder(**MONTE_CARLO).fit(X)
    np.testing.assert_allclose(np.concatenate([vae.transform(row[None]) for row in X]), vae.transform(X), atol=1e-6)


def test_counts_need_no_conversion_to_floats():
    counts = np.random.default_rng(0).poisson(3, size=(40, 3))
    vae = VariationalAutoencoder(likelihood="poisson", **LINEAR, estimator="elbo").fit(counts)
    assert np.isfinite(vae.score(counts))
    drawn = vae.sample(5)
    np.testing.assert_array_equal(drawn, drawn.round())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "^latent_dim=0"),
        ({"hidden": 5}, "hidden=5"),
        ({"likelihood": "banana"}, "^likelihood=banana"),
        ({"overrides": "trainer.patience=3"}, "must be a list"),
        ({"val_fraction": 0.001}, "val_fraction=0.001"),
    ],
)
def test_bad_settings_are_refused_in_fit_alone(X, settings, message):
    vae = VariationalAutoencoder(**{**LINEAR, **settings})
    with pytest.raises(BadInput, match=message):
        vae.fit(X)
    with pytest.raises(NotFittedError):  # n_features_in_ alone is not a fit
        vae.transform(X)


def test_bad_numbers_of_samples_are_refused(X):
    vae = VariationalAutoencoder(**LINEAR).fit(X)
    with pytest.raises(BadInput, match="^n_samples=0"):
        vae.sample(0)


def test_nan_is_a_missing_entry(X):
    complete = X.copy()
    X[::3, 0] = np.nan
    X[1, :2] = np.nan
    pipeline = Pipeline([("scale", StandardScaler()), ("vae", VariationalAutoencoder(**LINEAR, random_state=0))]).fit(X)
    vae = pipeline["vae"]
    assert get_tags(vae).input_tags.allow_nan
    assert np.isfinite(pipeline.transform(X)).all()
    Z = pipeline["scale"].transform(complete)
    by_column = [np.full(3, np.nan), *np.where(np.eye(3, dtype=bool), Z[:1], np.nan)]
    log_px = vae.score_samples(np.stack(by_column))
    assert abs(log_px[0]) < 1e-4  # nothing is observed
    draws = vae.sample(20_000)  # of a linear model, whose marginals are normal
    expected = norm(draws.mean(0), draws.std(0)).logpdf(Z[0])
    np.testing.assert_allclose(log_px[1:], expected, atol=0.1)
    with pytest.raises(ValueError, match="infinity"):
        vae.fit(np.where(np.isnan(X), np.inf, X))


def test_a_model_of_complete_rows_tells_how_to_accept_nan(X):
    vae = VariationalAutoencoder(**LINEAR).fit(X)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"x holds NaN, but the training data were complete: .*data.missing=true"):
        vae.transform(X)
    for settings in ({"overrides": (*LINEAR["overrides"], "data.missing=true")}, {"missing": True}):
        open_to_nan = VariationalAutoencoder(**{**LINEAR, **settings})
        assert np.isfinite(open_to_nan.fit(X[1:]).transform(X)).all()
    with pytest.raises(BadInput, match="missing=maybe"):
        VariationalAutoencoder(**LINEAR, missing="maybe").fit(X)


def test_the_package_does_not_need_scikit_learn(monkeypatch):
    code = "import sys, pyro_vae; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    monkeypatch.delitem(sys.modules, "pyro_vae.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn 1\.6 or later: pip install 'pyro-vae\[sklearn\]'"):
        import_module("pyro_vae.sklearn")


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_table_goes_in_and_comes_out(library):
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    columns = {
        "size": [None if i % 9 == 0 else value for i, value in enumerate(size)],
        "visits": rng.poisson(np.exp(size)).tolist(),
        "colour": ["red" if value > 0 else "blue" for value in size],
    }
    frame = pd.DataFrame(columns) if library == "pandas" else pl.DataFrame(columns)
    settings = {**MONTE_CARLO, "max_epochs": 2, "likelihood": "table", "kinds": {"visits": "count"}, "random_state": 0}
    vae = VariationalAutoencoder(1, **settings)
    assert np.isfinite(cross_val_score(vae, frame, cv=2)).all()
    z = clone(vae).fit_transform(frame)
    vae.fit(frame)
    assert np.array_equal(z, vae.transform(frame))
    assert z.shape == (60, 1)
    assert vae.n_features_in_ == 3
    assert list(vae.feature_names_in_) == list(columns)
    for rows in (vae.inverse_transform(z), vae.sample(60)):
        assert type(rows) is type(frame)
        assert list(rows.columns) == list(columns)
        assert set(rows["colour"]) <= {"red", "blue"}
    with pytest.raises(ValueError, match="feature names"):
        vae.transform(frame[["visits", "size", "colour"]])
    with pytest.raises(BadInput, match="X has type ndarray: give a data frame, as in fit"):
        vae.score_samples(np.zeros((2, 3)))


def test_columns_can_be_standardized(X):
    X = X * [1.0, 1e3, 1e-2]
    by = {
        choice: VariationalAutoencoder(1, standardize=choice, random_state=0, **LINEAR).fit(X)
        for choice in (True, False)
    }
    assert by[True].vae_.likelihood.standardize
    assert not by[False].vae_.likelihood.standardize
    assert by[True].score(X) > by[False].score(X) + 1


def test_warnings_are_of_the_callers_line(recwarn):
    X = np.random.default_rng(0).normal(size=(60, 3))
    VariationalAutoencoder(**{**MONTE_CARLO, "num_samples": 2}).fit(X).score_samples(X)
    (told,) = (each for each in recwarn if "are unreliable" in str(each.message))
    assert told.filename == __file__
