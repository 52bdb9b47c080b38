"""Data in any units are learnt; log p(x) stands beside that of independent marginals, with a warning below it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_vae
from pyro_vae.data import from_array
from pyro_vae.likelihoods import Bernoulli, Gaussian, Likelihood
from pyro_vae.likelihoods.full_gaussian import shrinkage
from pyro_vae.marginal import LogEvidence
from pyro_vae.runs import baseline

WORSE = "the model is worse than independent marginals"
ELBO_BELOW = "the model's ELBO is below the log p(x) of independent marginals"
NO_PROOF = "An ELBO is a lower bound of log p(x), so this does not prove that the model is worse"


def normal(N=500, D=8, seed=0):
    return np.random.default_rng(seed).normal(size=(N, D))


def cancer():
    from sklearn.datasets import load_breast_cancer

    x = load_breast_cancer().data
    x = x[np.random.default_rng(0).permutation(len(x))]
    return x[:450], x[450:]


UNITS = [
    ("learned", 1, 0), ("fixed", 1e-3, 0), ("per_pixel", 1, 500),
    *(
        pytest.param(*values, marks=pytest.mark.slow)
        for values in [
            ("learned", 1e-3, 0), ("learned", 1, 500), ("fixed", 1, 0), ("fixed", 1, 500), ("per_pixel", 1, 0),
            ("per_pixel", 1e-3, 0),
        ]
    ),
]  # fmt: skip
"""That units make no difference, `test_start.py` tests as well."""


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "a", "b"), UNITS)
def test_standard_normals_are_learnt_in_any_units(scale, a, b):
    """500 × N(0, I₈); its entropy is 11.35 nats."""
    x, new = a * normal() + b, a * normal(seed=1) + b
    epochs = {"learned": 60, "per_pixel": 25, "fixed": 10}[scale]
    vae = pyro_vae.fit(x, likelihood="gaussian", max_epochs=epochs, overrides=[f"likelihood.scale={scale}"])
    log_px = vae.log_prob(new, 100, estimator="importance") + 8 * math.log(a)
    assert log_px.mean().item() == pytest.approx(stats.norm.logpdf(normal(seed=1)).sum(1).mean(), abs=0.3)


@pytest.mark.parametrize("standardized", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_breast_cancer_is_better_than_independent_normals(standardized, caplog):
    train, test = cancer()
    loc, scale = train.mean(0), train.std(0)
    independent = stats.norm(loc, scale).logpdf(test).sum(1).mean()
    overrides = [] if standardized else ["likelihood.scale=per_pixel"]
    if standardized:
        train, test = (train - loc) / scale, (test - loc) / scale
        independent += np.log(scale).sum()
    vae = pyro_vae.fit(train, likelihood="gaussian", max_epochs=40, overrides=overrides)
    assert vae.log_prob(test, 100, estimator="importance").mean() > independent + 10
    assert ELBO_BELOW not in caplog.text


def test_counts_of_700_are_reconstructed():
    x = np.random.default_rng(0).poisson(720, size=(300, 4))
    for likelihood in ("poisson", "negative_binomial"):
        vae = pyro_vae.fit(x.astype(float), likelihood=likelihood, max_epochs=5)
        assert vae.reconstruct(x.astype(float)).mean().item() == pytest.approx(720, rel=0.01)


def test_fit_warns_where_the_elbo_is_below_the_baseline(caplog):
    pyro_vae.fit(normal(300), likelihood="gaussian", max_epochs=1, overrides=["likelihood.init_scale=0.1"])
    (line,) = [r.getMessage() for r in caplog.records if ELBO_BELOW in r.getMessage()]
    assert NO_PROOF in line
    assert WORSE not in caplog.text
    assert "train longer" in line
    assert "one scale" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("likelihood", "advice"), [("gaussian", "likelihood.scale=per_pixel"), ("student_t", "as standardize=true does")]
)
def test_one_scale_for_columns_of_very_different_ones_is_warned_of(likelihood, advice, caplog):
    x = normal(300) * np.logspace(-2, 2, 8)
    pyro_vae.fit(x, likelihood=likelihood, max_epochs=1, standardize=False)
    (line,) = [r.getMessage() for r in caplog.records if "very different standard deviations" in r.getMessage()]
    assert line.endswith(advice)
    caplog.clear()
    pyro_vae.fit(x, likelihood="gaussian", max_epochs=1, overrides=["likelihood.scale=per_pixel"])
    pyro_vae.fit(normal(300) * np.linspace(0.2, 2, 8), likelihood=likelihood, max_epochs=1)
    assert "very different" not in caplog.text


@pytest.mark.parametrize(
    ("likelihood", "remedy"),
    [("gaussian", "or set likelihood.scale=per_pixel"), ("student_t", "=true does; if they vary alike")],
)
def test_one_scale_that_does_not_suit_the_columns_is_worse_than_marginals(likelihood, remedy, caplog):
    """Nor do 50 constant columns hide that, to which the model gives a higher density than wider marginals would."""
    x = np.c_[normal(300) * np.logspace(-2, 2, 8), np.full((300, 50), 3.0)]
    pyro_vae.fit(x, likelihood=likelihood, max_epochs=10, standardize=False)
    (line,) = [r.getMessage() for r in caplog.records if ELBO_BELOW in r.getMessage()]
    assert "its dimensions share one scale: divide each by its own standard deviation" in line
    assert remedy in line


def images(N=400, seed=0):
    """One factor sets the level of 20 pixels; 30 pixels are constant, and 5 set once in a hundred times."""
    rng = np.random.default_rng(seed)
    shapes = np.random.default_rng(9).random((1, 20))
    rare = (rng.random((N, 5)) < 0.01) * rng.random((N, 5))
    return np.c_[rng.random((N, 1)) * shapes + 0.05 * rng.normal(size=(N, 20)), np.zeros((N, 30)), rare]


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t"])
def test_constant_and_rarely_set_pixels_do_not_make_a_good_model_worse(likelihood, caplog):
    """Marginals as narrow as those pixels, or narrower still, have a higher density than any model with one scale."""
    vae = pyro_vae.fit(images(), likelihood=likelihood, latent_dim=2, max_epochs=25, lr=3e-3)
    assert ELBO_BELOW not in caplog.text
    own = vae.likelihood.marginals(torch.from_numpy(images())).base_dist.scale
    sigma = vae.likelihood.scale.item()
    assert sigma < 0.12  # has learnt the factor
    torch.testing.assert_close(own[20:50], torch.full((30,), sigma).double())
    rare = images()[:, 50:]
    assert (own[50:].numpy() > np.minimum(sigma, (rare.max(0) - rare.mean(0)) / 10) - 1e-9).all()


@pytest.mark.parametrize("scale", ["fixed", "learned"])
def test_scales_of_marginals_are_above_a_bound_that_was_asked_for(scale):
    x = torch.from_numpy(normal(300) * np.logspace(-2, 2, 8))
    options = {"min_scale": 0.3} if scale == "learned" else {}
    likelihood = Gaussian([8], scale=scale, **options)
    likelihood.initialize_from(x)
    own = likelihood.marginals(x).base_dist.scale
    expected = x.std(0, correction=0).clamp(min=options.get("min_scale", 0))
    torch.testing.assert_close(own, expected)


def test_a_ring_is_learnt():
    """No direction varies more than the others: a σ that starts at the data's standard deviation uses none of them."""
    from pyro_vae.data import ring

    x = ring(1000).train.x.numpy()
    vae = pyro_vae.fit(
        x, likelihood="gaussian", latent_dim=2, lr=3e-3, max_epochs=40, overrides=["network.activation=relu"]
    )
    assert (vae.reconstruct(x).numpy() - x).std() < 0.2


@pytest.mark.parametrize("guide", ["diagonal", "point"])
def test_fit_says_nothing_where_it_is_not_or_where_there_is_no_elbo(guide, caplog):
    z = normal(300, 1)
    x = z @ np.ones((1, 6)) + 0.1 * normal(300, 6, seed=1)
    beta = [] if guide == "diagonal" else ["objective=beta_vae", "objective.beta=0"]
    pyro_vae.fit(x, likelihood="gaussian", guide=guide, latent_dim=1, max_epochs=25, overrides=beta)
    assert ELBO_BELOW not in caplog.text


def test_fit_without_validation_data_has_nothing_to_compare(caplog):
    bad = ["likelihood.init_scale=0.1"]
    pyro_vae.fit(normal(50), likelihood="gaussian", max_epochs=1, val_fraction=0, overrides=bad)
    assert ELBO_BELOW not in caplog.text


def evidence(log_px, independent):
    log_px, independent = torch.as_tensor(log_px), torch.as_tensor(independent)
    return LogEvidence(log_px, 0 * log_px, log_px, log_px, log_px, 9, extra={"baseline": independent})


def exceeds(log_px, independent):
    likelihood = Bernoulli([3])
    return baseline.Baseline(likelihood, likelihood(torch.zeros(1, 3))).exceeds(evidence(log_px, independent))


def test_the_noise_of_the_difference_is_allowed_for():
    """Paired: datapoints differ by far more than the two models."""
    noise = 0.1 * normal(400, 1).ravel()
    easy = 10 * normal(400, 1, seed=1).ravel()
    assert exceeds(easy - 0.1 + noise, easy)
    assert not exceeds(easy + noise - noise.mean(), easy)
    assert not exceeds(easy + 0.1 + noise, easy)
    assert not exceeds(easy[:1] - 9, easy[:1])
    assert not exceeds(np.full(3, np.nan), np.zeros(3))


def test_a_model_between_the_baselines_is_warned_of_the_gaussian_alone(caplog):
    """The columns are nearly the same: one Gaussian knows it."""
    x = normal(300, 1) + 0.1 * normal(300, 4, seed=1)
    vae = pyro_vae.fit(x, likelihood="gaussian", max_epochs=1, latent_dim=1)
    data = from_array(x)
    fitted, val = baseline.fitted(vae, data), data.val.x
    beside = fitted.beside(evidence(torch.zeros(len(val)), torch.zeros(len(val))), val)
    between = (beside.extra["baseline"] + beside.extra["baseline_gaussian"]) / 2
    assert beside.extra["baseline_gaussian"].mean() > beside.extra["baseline"].mean() + 4
    caplog.clear()
    fitted.warn(replace(beside, log_px=between, elbo=between))
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("the model is worse than one Gaussian with full covariance: log p(x) is ")
    assert "raise latent_dim" in line
    fitted.warn(replace(beside, log_px=between + 9, elbo=between + 9))
    assert len(caplog.records) == 1


def test_probabilities_have_no_gaussian_baseline(small_vae):
    assert baseline.fitted(small_vae, from_array(np.eye(6)[np.arange(60) % 6])).gaussian is None


def test_a_likelihood_without_marginals_has_none(small_vae):
    class Mine(Bernoulli):
        marginals = Likelihood.marginals

    small_vae.likelihood = Mine([6])
    assert baseline.independent_marginals(small_vae, from_array(normal(20, 6))) is None


def test_the_commands_report_it(command, tmp_path):
    x = normal(300)
    np.save("x.npy", x)
    bad = ["likelihood=gaussian", "likelihood.init_scale=0.1", "likelihood.scale=fixed"]
    options = ["data=array", "data.path=x.npy", *bad, "network.hidden=[8]", "latent_dim=2"]
    short = ["trainer.max_epochs=1", "estimator=importance", "estimator.num_samples=50", "hydra.run.dir=run"]
    done = command("train", *options, *short)
    assert done.code == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    data = from_array(x)
    train, test = data.train.x.double().numpy(), data.test.x.double().numpy()
    expected = stats.norm(train.mean(0), train.std(0)).logpdf(test).sum(1).mean()
    assert results["baseline"] == pytest.approx(expected, abs=1e-5)
    share = shrinkage(torch.from_numpy(stats.zscore(train)))
    shrunk = np.cov(train.T, bias=True) * (1 - share + share * np.eye(8))
    joint = stats.multivariate_normal(train.mean(0), shrunk)
    assert results["baseline_gaussian"] == pytest.approx(joint.logpdf(test).mean(), abs=1e-5)
    assert "log p(x) of one Gaussian with full covariance, fitted to the training set" in done.out
    assert "  baseline" in done.out
    assert "log p(x) of independent marginals, one for each dimension, fitted to the training set" in done.out
    assert done.err.count(WORSE) + done.out.count(WORSE) == 1
    assert f"{WORSE}: log p(x) is -" in done.out + done.err

    done = command("evaluate", "run=run", "estimator=elbo", "estimator.num_samples=20", "split=val")
    assert done.code == 0
    assert ELBO_BELOW in done.out + done.err
    assert WORSE not in done.out + done.err
    saved = json.loads((tmp_path / "run" / "evaluations" / "elbo-20.json").read_text())
    val = data.val.x.double().numpy()
    log_px = stats.norm(train.mean(0), train.std(0)).logpdf(val).sum(1)
    assert saved["baseline"] == pytest.approx(log_px.mean(), abs=1e-5)
    with np.load(tmp_path / "run" / "evaluations" / "elbo-20.npz") as arrays:
        np.testing.assert_allclose(arrays["baseline"], log_px, atol=1e-4)
        np.testing.assert_allclose(arrays["baseline_gaussian"], joint.logpdf(val), atol=1e-4)


def test_without_an_estimate_the_elbo_is_compared(command, tmp_path):
    np.save("x.npy", normal(300))
    options = ["data=array", "data.path=x.npy", "network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1"]
    bad = ["likelihood=gaussian", "likelihood.init_scale=0.1", "likelihood.scale=fixed"]
    done = command("train", *options, *bad, "estimator=none", "plots=false", "hydra.run.dir=run")
    assert done.code == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    numbers = {line.split()[0]: line.split()[1] for line in done.out.splitlines() if line.startswith("  ")}
    assert numbers == {name: f"{results[name]:.3f}" for name in ("elbo", "baseline", "baseline_gaussian")}
    told = done.out + done.err
    assert told.count(f"{ELBO_BELOW}: {results['elbo']:.2f} against {results['baseline']:.2f} nats") == 1
    assert NO_PROOF in told
    assert WORSE not in told


def test_binarized_data_have_that_of_a_fixed_training_set():
    x = np.random.default_rng(0).random((200, 3))
    data = from_array(x, binarize="dynamic")
    vae = pyro_vae.fit(x, binarize="dynamic", max_epochs=1)
    p = baseline.independent_marginals(vae, data).marginals
    drawn = data.split("train").x.double()
    torch.testing.assert_close(p.mean, (drawn.sum(0) + 0.5) / (len(drawn) + 1))


def test_data_on_disk_start_from_their_first_part(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.split.CHUNK_BYTES", 4 * 8 * 50)
    np.save(tmp_path / "x.npy", (normal() + 500).astype(np.float32))
    from pyro_vae.data import array

    data = array(str(tmp_path / "x.npy"))
    likelihood = Gaussian([8])
    likelihood.initialize_from(data.train.sample().x)
    assert len(data.train.sample()) == 50
    assert (likelihood(torch.zeros(1, 8)).mean - 500).abs().max() < 5 / math.sqrt(50)
