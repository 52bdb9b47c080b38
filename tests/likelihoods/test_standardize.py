"""Standardization within the likelihood: log p(x) and samples are in the units of the data."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Gaussian, StudentT
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.runs.config import compose
from pyro_vae.runs.resume import is_run_of
from pyro_vae.vae import VAE

D = 5
UNITS = np.array([1e-3, 1.0, 50.0, 2e4, 3.0])
TINY = {"network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 2, "verbose": False}
FAMILIES = {
    "learned": Gaussian,
    "fixed": partial(Gaussian, scale="fixed", init_scale=0.3),
    "bounded": partial(Gaussian, init_scale=0.3, min_scale=0.2),
    "per_pixel": partial(Gaussian, scale="per_pixel", init_scale=0.3, min_scale=0.01),
    "t": partial(StudentT, df=4.0),
}


def unlike(n=200, seed=0):
    """Rows whose columns have very different scales."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 2)) @ np.random.default_rng(9).normal(size=(2, D)) + rng.normal(size=(n, D))) * UNITS


def of(likelihood, x):
    torch.manual_seed(0)
    vae = VAE.build([D], 2, MLP([8]), StandardNormal, likelihood, Diagonal)
    vae.initialize(x)
    return vae


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_parameters_give_the_same_density_in_the_units_of_the_data(name):
    """As the model without `standardize` of data that were standardized before, log p(u) − Σ log unit."""
    family, x = FAMILIES[name], torch.from_numpy(unlike()).float()
    vae = of(partial(family, standardize=True), x)
    location, unit = vae.likelihood.location_and_spread(x)
    u = ((x - location) / unit).float()
    plain = of(family, u)
    plain.load_state_dict({**plain.state_dict(), **dict(vae.named_parameters())})
    z = 2 * torch.randn(30, 1, 2)
    p_x, p_u = vae.p_x(z), plain.p_x(z)
    torch.testing.assert_close(p_x.log_prob(x), p_u.log_prob(u) - unit.log().sum().float(), rtol=1e-3, atol=5e-3)
    torch.testing.assert_close(((p_x.mean - location) / unit).float(), p_u.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((p_x.stddev / unit).float(), p_u.stddev.expand_as(p_x.stddev), rtol=1e-3, atol=0)
    torch.testing.assert_close(vae.encode(x), plain.encode(u), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t"])
def test_columns_of_very_different_scales_are_standardized(likelihood, caplog):
    """Training is that of standardized data; numbers of users are in the units of their data."""
    x = unlike()
    with caplog.at_level(25):
        vae = pyro_vae.fit(x, likelihood=likelihood, **TINY)
    (line,) = [r.getMessage() for r in caplog.records if "very different" in r.getMessage()]
    assert "each is measured in its own (standardize=auto)" in line
    ready = pyro_vae.fit(x / UNITS, likelihood=likelihood, standardize=True, **TINY)
    torch.manual_seed(0)
    log_px = vae.log_prob(x, 100, estimator="importance").mean()
    torch.manual_seed(0)
    other = ready.log_prob(x / UNITS, 100, estimator="importance").mean()
    assert log_px.item() == pytest.approx(other.item() - np.log(UNITS).sum(), abs=0.05)
    spread = vae.sample(500).std(0).numpy() / UNITS
    assert ((spread > 0.2) & (spread < 5)).all()
    x[:, 1] = np.nan
    assert (np.abs(vae.impute(x, num_samples=5).mean(0)[:, 1].numpy()) < 20 * UNITS[1]).all()


def test_auto_changes_nothing_where_columns_are_alike():
    x = unlike() / UNITS
    one, other = (pyro_vae.fit(x, likelihood="gaussian", standardize=s, **TINY) for s in (None, False))
    assert one.likelihood.scale.shape == ()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


OWN_UNITS = [
    ["likelihood.scale=per_pixel"], ["likelihood.init_scale=0.1"], ["likelihood.min_scale=0.001"],
    ["trainer=exact_em", "network.hidden=[]", "guide=full_covariance", "trainer.max_epochs=1"],
]  # fmt: skip


@pytest.mark.parametrize("overrides", OWN_UNITS)
def test_auto_does_nothing_to_users_numbers_and_exact_em(overrides):
    vae = pyro_vae.fit(unlike(), likelihood="gaussian", latent_dim=2, max_epochs=1, overrides=overrides)
    assert not vae.likelihood.standardize


def test_auto_does_nothing_to_images():
    x = np.concatenate([unlike(), unlike()], 1).reshape(-1, 1, 2, D)
    assert not pyro_vae.fit(x, likelihood="gaussian", **TINY).likelihood.standardize
    assert pyro_vae.fit(x, likelihood="gaussian", standardize=True, **TINY).likelihood.standardize


def test_numbers_are_multiples_of_standard_deviations():
    x = torch.from_numpy(unlike())
    sd = x.std(0, correction=0).float()
    likelihood = Gaussian([D], init_scale=0.7, min_scale=0.05, standardize=True)
    likelihood.initialize_from(x)
    torch.testing.assert_close(likelihood(torch.zeros(1, D)).stddev, 0.7 * sd)
    likelihood.raw_scale.data.fill_(-1e3)
    torch.testing.assert_close(likelihood.scale.detach(), 0.05 * sd)
    assert likelihood.raw_scale.shape == ()


def test_a_likelihood_without_a_scale_is_refused():
    with pytest.raises(BadInput, match="standardize=true needs likelihood=gaussian or student_t"):
        pyro_vae.fit(np.eye(D)[np.arange(50) % D], standardize=True, **TINY)
    with pytest.raises(BadInput, match=r"standardize=.*must be true, false or auto"):
        pyro_vae.fit(unlike(), standardize="yes", **TINY)
    linear = ["trainer=exact_em", "network.hidden=[]", "guide=full_covariance"]
    with pytest.raises(BadInput, match="one σ for all columns: use standardize=false"):
        pyro_vae.fit(unlike(), likelihood="gaussian", standardize=True, latent_dim=2, overrides=linear)


def test_a_class_can_be_standardized():
    assert pyro_vae.fit(unlike(), likelihood=Gaussian, standardize=True, **TINY).likelihood.standardize


def test_checkpoints_keep_it_and_old_ones_are_not_standardized(tmp_path):
    vae = pyro_vae.fit(unlike(), likelihood="gaussian", run_dir=tmp_path / "run", **TINY)
    loaded = pyro_vae.load(tmp_path / "run")
    assert loaded.likelihood.standardize
    assert torch.equal(loaded.encode(unlike()), vae.encode(unlike()))
    plain = pyro_vae.fit(unlike(), likelihood="gaussian", run_dir=tmp_path / "old", standardize=False, **TINY)
    for path in (tmp_path / "old" / "checkpoints").glob("*.pt"):
        saved = torch.load(path, weights_only=True)
        del saved["config"]["likelihood"]["standardize"], saved["config"]["data"]["standardize"]
        torch.save(saved, path)
    loaded = pyro_vae.load(tmp_path / "old")
    assert not loaded.likelihood.standardize
    assert torch.equal(loaded.encode(unlike()), plain.encode(unlike()))


def test_a_run_is_resumed_and_evaluated(command, tmp_path):
    np.save("x.npy", unlike())
    options = ["data=array", "data.path=x.npy", "likelihood=gaussian", "network.hidden=[8]", "latent_dim=2"]
    short = ["trainer.max_epochs=1", "estimator=importance", "estimator.num_samples=20", "plots=false"]
    assert command("train", *options, *short, "hydra.run.dir=run").code == 0
    done = command("train", "resume=run", "trainer.max_epochs=2")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["likelihood"]["standardize"] is True
    assert math.isfinite(results["test"]["baseline_gaussian"])
    assert command("evaluate", "run=run", "estimator=importance", "estimator.num_samples=20", "plots=false").code == 0


def test_a_restarted_run_is_recognized(command, tmp_path):
    """The checkpoint holds what the run has written into its configuration."""
    np.save("x.npy", unlike())
    options = ["data=array", f"data.path={tmp_path / 'x.npy'}", "likelihood=gaussian", "trainer.max_epochs=1"]
    assert command("train", *options, "estimator=none", "plots=false", "hydra.run.dir=run").code == 0
    assert is_run_of(compose([*options, "estimator=none", "plots=false"]), tmp_path / "run")
    with pytest.raises(BadInput, match="already holds a run with other options"):
        is_run_of(compose([*options, "estimator=none", "plots=false", "data.standardize=false"]), tmp_path / "run")
