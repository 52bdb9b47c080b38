"""What a run says of itself: bits per dimension, autoencoders, classes."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import every
from test_train import one_error_line

from pyro_vae import experiment, plots, report
from pyro_vae.config import compose
from pyro_vae.data import Split

SHORT = ["network.hidden=[16]", "latent_dim=2", "trainer.max_epochs=2", "estimator.num_samples=20", "hydra.run.dir=run"]


def results(tmp_path):
    return json.loads((tmp_path / "run" / "results.json").read_text())


def test_an_autoencoder_has_no_log_px_and_says_why(command, small_data, tmp_path):
    outcome = command("train", "+experiment=autoencoder", "data=array", small_data, *SHORT)
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    assert test["log_px"] is None
    assert test["elbo"] is None
    assert "q(z | x) has no density" in test["refused"]
    assert 0 < results(tmp_path)["reconstruction_error"] < 1
    for figure in ("samples", "reconstructions", "training", "latent", "manifold"):
        assert (tmp_path / "run" / "plots" / f"{figure}.png").stat().st_size > 1000
    for estimator in ("refined", "importance", "elbo", "ais", "prior"):
        one_error_line(command("evaluate", "run=run", f"estimator={estimator}"), "autoencoder", "log p(x) says nothing")


def test_reconstruction_error_is_the_mean_square_of_what_reconstruct_returns(command, small_data, tmp_path):
    import pyro_vae
    from pyro_vae.data import array

    assert command("train", "data=array", small_data, *SHORT).code == 0
    x = array(small_data.partition("=")[2], split_seed=0).test.x
    error = (pyro_vae.load("run").reconstruct(x) - x).square().mean().item()
    assert results(tmp_path)["reconstruction_error"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "offset"),
    every(
        2,
        [
            (["likelihood=gaussian", "data.binarize=none", "data.dequantize=true"], math.log2(17)),
            (["likelihood=categorical", "data.binarize=none"], 0.0),
            (["likelihood=bernoulli", "data.binarize=threshold"], 0.0),
            (["likelihood=gaussian", "data.binarize=none"], None),
            (["likelihood=bernoulli", "data.binarize=none"], None),
        ],
        several=True,
    ),
)
def test_bits_per_dim_of_probabilities_and_of_dequantized_densities(command, tmp_path, settings, offset):
    outcome = command("train", "data=digits", *settings, *SHORT)
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    if offset is None:
        assert "bits_per_dim" not in test
        return
    assert test["bits_per_dim"] == pytest.approx(-test["log_px"] / (64 * math.log(2)) + offset)
    assert "in bits per dimension" in outcome.out


def test_uniform_density_of_dequantized_data_is_worth_the_bits_of_the_grid():
    from types import SimpleNamespace

    from pyro_vae.report import bits_per_dim

    vae = SimpleNamespace(data_shape=(7,), likelihood=SimpleNamespace(discrete=False, check=lambda x: None))
    data = SimpleNamespace(dequantize=True, num_levels=256)
    assert bits_per_dim(0.0, vae, data, None) == pytest.approx(8.0)
    vae.likelihood.discrete, data.dequantize = True, False
    assert bits_per_dim(-7 * math.log(2), vae, data, None) == pytest.approx(1.0)


def test_estimators_that_do_not_fit_are_refused_before_training(command, small_data, tmp_path):
    one_error_line(command("train", "data=array", small_data, *SHORT[:3], "estimator=exact"), "estimator=exact needs")
    one_error_line(command("train", "data=array", small_data, *SHORT[:3], "estimator=bdmc"), "estimator=bdmc simulates")
    many = [*SHORT[:3], "estimator=nuts", "estimator.max_data=3"]
    one_error_line(command("train", "data=array", small_data, *many), "estimator=nuts", "20 datapoints", "num_data=3")
    assert not list(tmp_path.glob("outputs/**/last.pt"))


def test_a_discrete_latent_is_no_matter_for_refined(command, tmp_path):
    np.save("x.npy", np.random.default_rng(0).random((60, 4)))
    discrete = ["prior=categorical", "guide=enumerated", "objective=trace_elbo", "data=array", "data.path=x.npy"]
    one_error_line(command("train", *discrete, "likelihood=gaussian", "latent_dim=3"), "discrete", "importance")


@pytest.mark.parametrize(
    ("options", "over"),
    [
        (["prior=categorical", "guide=categorical", "objective=score_function"], "the values of z"),
        (["prior=class_conditional", "conditioning=prior"], "the quantiles of p(z | y), y = 0"),
        ([], "the quantiles of p(z)"),
    ],
)
def test_the_manifold_is_of_latents_that_the_prior_gives(options, over, tmp_path, monkeypatch):
    config = compose(["latent_dim=2", "network.hidden=[8]", *options])
    vae = experiment.build_vae(config, [6], num_classes=3)
    drawn = {}
    monkeypatch.setattr(plots, "manifold", lambda x, path, limits, over: drawn.update(x=x, over=over))
    x, y = torch.rand(9, 6).round(), torch.arange(9) % 3
    report.draw(vae, Split(x, y), [], tmp_path)
    assert drawn["over"] == over
    if over == "the values of z":
        np.testing.assert_allclose(drawn["x"], vae.decode(torch.eye(2).flip(0)), rtol=1e-6)
    assert (tmp_path / "latent.png").is_file()
