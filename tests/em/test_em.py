"""Exact EM: the likelihood never falls, and ends at the closed-form maximum."""

import csv
import math
from copy import deepcopy
from itertools import pairwise

import pyro
import pytest
import torch
from conftest import one_error_line
from sklearn.mixture import GaussianMixture

import pyro_vae
from pyro_vae.data import from_array
from pyro_vae.em import ExactEM, mixture
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, Enumerated, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.marginal import Exact, Importance
from pyro_vae.networks import MLP
from pyro_vae.priors import Categorical, StandardNormal
from pyro_vae.training.trainer import State
from pyro_vae.vae import VAE


def linear_vae(d=2, D=6):
    return VAE.build([D], d, MLP([]), StandardNormal, Gaussian, FullCovariance)


def mixture_vae(K=3, D=4, min_scale=0.01):
    def likelihood(shape):
        return Gaussian(shape, scale="per_pixel", min_scale=min_scale)

    return VAE.build([D], K, MLP([]), Categorical, likelihood, Enumerated)


def linear_data(N=300, D=6):
    return torch.randn(N, 2) @ torch.randn(2, D) + 0.3 * torch.randn(N, D) + torch.randn(D)


def clustered_data(N=300, D=4):
    return 3 * torch.randn(3, D)[torch.randint(3, (N,))] + torch.rand(D) * torch.randn(N, D)


def fit(vae, x, max_epochs=300, tolerance=1e-9):
    rows = []
    data = from_array(x, test_fraction=0)
    state = State()
    ExactEM(max_epochs=max_epochs, tolerance=tolerance).fit(vae, data, None, None, state, lambda r, b: rows.append(r))
    return data.train.x, rows


@pytest.mark.parametrize(("make", "data"), [(linear_vae, linear_data), (mixture_vae, clustered_data)])
def test_the_log_likelihood_never_decreases(make, data):
    vae, x = make(), data()
    rows = fit(vae, x, max_epochs=40)[1]
    values = [row["train/elbo"] for row in rows]
    assert len(values) > 5
    assert all(after >= before - 1e-9 for before, after in pairwise(values))
    assert values[-1] > values[0] + 0.1


@pytest.mark.parametrize(("make", "data"), [(linear_vae, linear_data), (mixture_vae, clustered_data)])
def test_elbo_is_the_exact_log_likelihood_at_every_iteration(make, data):
    """The guide is the posterior: single importance weights have no variance."""
    vae, x = make(), data()
    x, rows = fit(vae, x, max_epochs=3)
    pyro.clear_param_store()
    evidence = Importance(20)(vae.model, vae.guide, x)
    assert evidence.se.max() < 1e-3
    assert evidence.log_px.mean().item() == pytest.approx(rows[-1]["train/elbo"], abs=1e-4)


def test_ppca_reaches_the_closed_form_maximum():
    """Tipping & Bishop (1999), eqs. 7 and 8: the top eigenvectors, and σ² the mean of the other eigenvalues."""
    vae = linear_vae()
    x, rows = fit(vae, linear_data())
    x = x.double()
    S = (x - x.mean(0)).mT @ (x - x.mean(0)) / len(x)
    eigenvalues = torch.linalg.eigvalsh(S).flip(0)
    d, D = 2, 6
    sigma2 = eigenvalues[d:].mean()
    maximum = -0.5 * (D * math.log(2 * math.pi) + eigenvalues[:d].log().sum() + (D - d) * sigma2.log() + D)
    assert rows[-1]["train/elbo"] == pytest.approx(maximum.item(), abs=1e-5)
    assert vae.likelihood.scale.item() == pytest.approx(sigma2.sqrt().item(), rel=1e-3)
    assert Exact()(vae.model, vae.guide, x.float()).log_px.mean().item() == pytest.approx(maximum.item(), abs=1e-3)


def test_mixture_is_scikit_learns_from_the_same_start():
    torch.manual_seed(2)
    vae, x = mixture_vae(min_scale=1e-4), clustered_data()
    vae.double()
    x = x.double()
    with torch.no_grad():
        mixture.start(vae, x)
        start = vae.decoder[0].weight[:4].mT.clone()
        for _ in range(25):
            mixture.step(vae, x)
        pyro.clear_param_store()
        log_px = Importance(1)(vae.model, vae.guide, x).log_px.mean().item()
    precisions = (1 / x.var(0)).expand(3, 4)
    oracle = GaussianMixture(
        3, covariance_type="diag", weights_init=[1 / 3] * 3, means_init=start.numpy(),
        precisions_init=precisions.numpy(), max_iter=25, tol=0, reg_covar=1e-12,
    )  # fmt: skip
    with pytest.warns(match="did not converge"):
        oracle.fit(x.numpy())
    assert log_px == pytest.approx(oracle.score(x.numpy()), abs=1e-6)


@pytest.mark.parametrize(("make", "data"), [(linear_vae, linear_data), (mixture_vae, clustered_data)])
def test_it_is_the_same_in_the_units_of_the_data(make, data):
    x, rows = data(), []
    for start in (lambda vae: None, lambda vae: vae.initialize(x)):
        vae = make()
        start(vae)
        torch.manual_seed(0)
        rows.append([row["train/elbo"] for row in fit(vae, x, max_epochs=5)[1]])
    assert rows[1] == pytest.approx(rows[0], abs=1e-5)
    assert Importance(20)(vae.model, vae.guide, x).se.max() < 1e-3  # the guide, too, is in these units


def test_a_step_is_of_all_data_however_many():
    vae, x = mixture_vae().double(), clustered_data().double()
    with torch.no_grad():
        mixture.start(vae, x)
        twin = deepcopy(vae)
        mixture.step(vae, x)
        mixture.step(twin, torch.cat([x, x, x]))  # the same moments
    torch.testing.assert_close(twin.state_dict(), vae.state_dict())


def test_it_stops_when_it_gains_no_more():
    rows = fit(linear_vae(), linear_data(), max_epochs=1000, tolerance=1e-3)[1]
    assert len(rows) < 200
    assert rows[-1]["train/elbo"] - rows[-2]["train/elbo"] < 1e-3


def test_fit_takes_it():
    x = torch.randn(200, 3) @ torch.randn(3, 5)
    linear = ["network.hidden=[]", "likelihood.scale=learned", "trainer=exact_em"]
    vae = pyro_vae.fit(x, likelihood="gaussian", guide="full_covariance", latent_dim=3, max_epochs=5, overrides=linear)
    assert vae.log_prob(x, 10, estimator="importance").isfinite().all()


def test_other_models_are_refused():
    vae = VAE.build([6], 2, MLP([8]), StandardNormal, Gaussian, FullCovariance)
    diagonal = VAE.build([6], 2, MLP([]), StandardNormal, Gaussian, Diagonal)
    for model in (vae, diagonal):
        with pytest.raises(BadInput, match=r"trainer=exact_em supports two models, \+experiment=em_ppca"):
            ExactEM().check(model, None, torch.zeros(1, 6), None)


def test_several_processes_are_refused(monkeypatch):
    """Each would start anywhere and stop at an iteration of its own, waiting for the others."""
    monkeypatch.setattr("pyro_vae.parallel.collectives.world_size", lambda: 2)
    with pytest.raises(BadInput, match="trainer=exact_em runs in a single process"):
        ExactEM().check(linear_vae(), None, torch.zeros(1, 6), None)


def test_the_command_runs_resumes_and_refuses(command, tmp_path):
    run = tmp_path / "run"
    outcome = command("train", "+experiment=em_ppca", "trainer.max_epochs=6", f"hydra.run.dir={run}")
    assert outcome.code == 0, outcome.err
    # a key that the default trainer does not have
    assert command("train", f"resume={run}", "trainer.max_epochs=12", "trainer.tolerance=1e-9").code == 0
    one_error_line(command("train", f"resume={run}", "trainer.banana=3"), "trainer.banana is not a key", "tolerance")
    assert "nothing is left to train" in command("train", f"resume={run}").out
    with (run / "metrics.csv").open() as file:
        values = [float(row["train/elbo"]) for row in csv.DictReader(file)]
    assert len(values) == 12
    # after the resumption from float32 weights too
    assert all(after >= before - 1e-4 for before, after in pairwise(values))
    one_error_line(command("train", "trainer=exact_em", "data=digits"), "trainer=exact_em", "em_ppca")
    one_error_line(command("train", "+experiment=em_gaussian_mixture", "conditioning=concat"), "trainer=exact_em")
    run = tmp_path / "mixture"
    outcome = command("train", "+experiment=em_gaussian_mixture", "latent_dim=2000", f"hydra.run.dir={run}")
    one_error_line(outcome, "latent_dim=2000", "training datapoints", "smaller latent_dim")
    assert not run.exists()  # before the work


def test_a_single_training_row_is_refused():
    linear = ["network.hidden=[]", "likelihood.scale=learned", "trainer=exact_em", "data.val_fraction=0"]
    with pytest.raises(BadInput, match="exact_em needs at least 2 training rows"):
        pyro_vae.fit(torch.ones(1, 3), likelihood="gaussian", guide="full_covariance", latent_dim=1, overrides=linear)
