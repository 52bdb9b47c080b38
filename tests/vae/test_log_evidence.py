"""`vae.log_prob` and `vae.evidence` by the estimator that is asked for."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Auto, Importance, LogEvidence, Refined


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("importance", {"num_samples": 200}),
        ("auto", {}),
        ("refined", {"num_samples": 50}),
        ("ais", {"num_samples": 10, "num_temperatures": 10, "start": "guide"}),
        ("exact", {}),
        pytest.param("nuts", {"num_samples": 100, "num_draws": 100}, marks=pytest.mark.slow),
        (Refined(20), {}),
    ],
)
def test_estimators_find_the_truth(ppca, estimator, settings):
    ppca.set_exact_guide()
    x = ppca.evidence.sample((3,))
    log_px = ppca.vae.log_prob(x, estimator=estimator, **settings)
    torch.testing.assert_close(log_px, ppca.evidence.log_prob(x), rtol=0, atol=0.1)
    evidence = ppca.vae.evidence(x, estimator=estimator, **settings)
    assert isinstance(evidence, LogEvidence)
    torch.testing.assert_close(evidence.log_px, log_px, rtol=0, atol=0.15)


def test_auto_is_the_default_and_settings_reach_the_estimator(ppca):
    x = ppca.evidence.sample((3,))
    for found, estimator in [
        (lambda: ppca.vae.log_prob(x), Auto()),
        (lambda: ppca.vae.log_prob(x, estimator="importance"), Importance(1000)),
        (lambda: ppca.vae.log_prob(x, 50, estimator="importance"), Importance(50)),
        (lambda: ppca.vae.evidence(x, num_samples=500).log_px, Auto(500)),
        (lambda: ppca.vae.evidence(x, num_samples=[5, 20], estimator="refined").log_px, Refined([5, 20])),
    ]:
        pyro.set_rng_seed(3)
        expected = estimator(ppca.vae.model, ppca.vae.guide, x).log_px
        pyro.set_rng_seed(3)
        assert torch.equal(found(), expected)


@pytest.mark.parametrize("num_samples", [1, 2, 7])
def test_auto_accepts_few_samples(small_vae, num_samples):
    x = np.eye(6)
    evidence = small_vae.evidence(x, num_samples=num_samples, compile=False)
    torch.testing.assert_close(evidence.log_px, small_vae.log_prob(x, compile=False), rtol=0, atol=1e-3)
    assert (evidence.extra["log_px_lower"] <= evidence.log_px).all()


def test_the_elbo_is_a_bound_that_needs_no_warning(ppca, recwarn):
    ppca.set_exact_guide(widen=0.5, shift=5)
    x = ppca.evidence.sample((20,))
    elbo = ppca.vae.log_prob(x, estimator="elbo", num_samples=50)
    assert (elbo < ppca.evidence.log_prob(x) - 3).all()
    assert not recwarn.list


def test_advice_is_given_in_python_s_words(small_vae):
    with pytest.warns(UserWarning, match="too low.*: set max_seconds=None$"):
        small_vae.log_prob(np.eye(6), max_seconds=1e-6, compile=False)


def test_exact_names_the_network_as_fit_does(small_vae):
    with pytest.raises(
        BadInput, match=r'linear-Gaussian model \(network=\("mlp", {"hidden": \[\]}\), a Gaussian prior'
    ):
        small_vae.evidence(np.eye(6), estimator="exact")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f8"])
def test_arrays_of_any_float_type_are_data(small_vae, dtype):
    x = np.eye(6)
    expected = small_vae.evidence(x, estimator="elbo", num_samples=2).log_px.shape
    assert small_vae.evidence(x.astype(dtype), estimator="elbo", num_samples=2).log_px.shape == expected
    assert small_vae.log_prob(torch.eye(6, dtype=torch.bfloat16), 2, estimator="elbo").dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "banana"}, "estimator=banana is unknown: choose one of ais, auto, elbo"),
        ({"estimator": "bdmc"}, "bdmc simulates its own data .* run python -m pyro_vae.evaluate"),
        ({"estimator": "ais", "chains": 3}, "chains=3 is not a setting of estimator=ais: choose one of num_samples,"),
        ({"estimator": Refined(3), "df": 3}, "df is given beside an estimator"),
        ({"estimator": "refined", "num_samples": 0}, "num_samples=0 must be"),
        ({"estimator": 3}, "estimator=3 is unknown"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(small_vae, settings, message):
    for method in (small_vae.log_prob, small_vae.evidence):
        with pytest.raises(BadInput, match=message):
            method(np.eye(6), **settings)
