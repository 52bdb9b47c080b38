"""A family of each axis from outside the package trains, is evaluated and loaded, as docs/how-to/families.md says."""

import json

import numpy as np
import pytest
import torch
from conftest import one_error_line
from own_families import Doubled, FixedScale, LaplaceLikelihood, LaplacePrior, Linear

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.vae import VAE

OF_THE_MODEL = [
    "prior._target_=own_families.LaplacePrior",
    "likelihood._target_=own_families.LaplaceLikelihood", "~likelihood.start_margin", "+likelihood.min_scale=0.2",
    "guide._target_=own_families.FixedScale", "+guide.init_scale=0.4",
    "network._target_=own_families.Linear", "+network.width=3",
    "~network.hidden", "~network.activation", "~network.upper_hidden", "~network.init",
]  # fmt: skip
OF_TRAINING = [
    "objective._target_=own_families.Tempered", "objective.num_particles=3", "+objective.temperature=0.8",
    "estimator=importance", "estimator._target_=own_families.Doubled", "~estimator.chunk_size", "~estimator.compile",
    "estimator.num_samples=20",
]  # fmt: skip
CLASSES = ("LaplacePrior", "LaplaceLikelihood", "FixedScale", "Linear", "Tempered", "Doubled")
TRUST = [f"own_families.{name}" for name in CLASSES]


@pytest.fixture
def data(tmp_path):
    z = np.random.default_rng(0).laplace(size=(120, 1))
    np.save(tmp_path / "x.npy", (40 + z * np.arange(1.0, 6.0)).astype(np.float32))
    return ["data=array", "data.path=x.npy", "data.binarize=none", "latent_dim=2"]


def test_the_command_with_one_of_each_axis(command, data, tmp_path):
    short = ["trainer.max_epochs=2", "second_estimator=false", "plots=false", "hydra.run.dir=run"]
    trained = command("train", *data, *OF_THE_MODEL, *OF_TRAINING, *short)
    assert trained.code == 0, trained.err
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["estimator"] == "doubled"
    assert np.isfinite(test["log_px"])

    trust = f"trust=[{','.join(TRUST)}]"
    one_error_line(command("evaluate", "run=run", "estimator=importance"), "would call own_families.", "trust=")
    again = ["estimator=importance", "estimator.num_samples=20", trust]
    evaluated = command("evaluate", "run=run", *again)
    assert evaluated.code == 0, evaluated.err
    resumed = command("train", "resume=run", "trainer.max_epochs=3", trust)
    assert resumed.code == 0, resumed.err

    vae = pyro_vae.load("run", trust=TRUST)
    assert isinstance(vae.prior, LaplacePrior)
    assert isinstance(vae.posterior, FixedScale)
    assert vae.likelihood.min_scale == 0.2
    assert (vae.likelihood.offset[0] > 30).all()
    x = torch.as_tensor(np.load("x.npy"))
    assert Doubled()(vae.model, vae.guide, x).log_px.isfinite().all()


def test_build_with_one_of_each_axis_of_the_model():
    vae = VAE.build([2, 3], 2, Linear(), LaplacePrior, LaplaceLikelihood, FixedScale)
    assert vae.sample(4).shape == (4, 2, 3)


def test_a_family_of_ones_own_that_misses_a_member_is_named(command, data):
    refused = command("train", *data, "likelihood._target_=torch.nn.Identity", "trainer.max_epochs=1")
    one_error_line(refused, "likelihood=Identity does not define at, discrete", "pyro_vae.likelihoods.Likelihood")


class NarrowPrior(LaplacePrior):
    """A prior that does not accept what all are given about the data."""

    def __init__(self, latent_dim):
        super().__init__(latent_dim)


def test_a_prior_that_does_not_accept_what_it_is_given_is_told_how():
    with pytest.raises(BadInput, match=r"prior: .*argument 'data_shape'.*: add \*\*data to its parameters"):
        pyro_vae.fit(torch.rand(20, 3), prior=NarrowPrior, max_epochs=1, verbose=False)
