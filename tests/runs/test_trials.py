"""Trials of a search, compared on the same validation data."""

import math

import numpy as np
import torch

from pyro_vae.data import from_array
from pyro_vae.guides import Diagonal, Point
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import ELBO
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.random_state import seeded
from pyro_vae.runs.trials import Trials
from pyro_vae.vae import VAE, SemiSupervisedVAE

X = (np.random.default_rng(0).random((100, 6)) < 0.3).astype(np.float32)


def vae(seed, guide=Diagonal):
    torch.manual_seed(seed)
    return VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, guide)


def test_differences_are_those_of_the_elbos_of_the_same_datapoints():
    data, models = from_array(X), [vae(seed) for seed in range(4)]
    trials = Trials()
    before = torch.get_rng_state()
    for number, model in enumerate(models[:3]):
        trials.add(number, model, data)
    assert torch.equal(torch.get_rng_state(), before)  # the next trial is as without
    trials.add(3, vae(3, Point), data)
    trials.add(4, models[3], from_array(X, split_seed=1))
    elbos = []
    for model in models[:3]:
        with seeded(0):
            elbos.append(ELBO(10)(model.model, model.guide, data.val.x).elbo.numpy())
    title, *rows = trials.table(1).splitlines()
    assert title.startswith("val/elbo of trial 1 minus that of other trials of this search")
    d = sorted((elbos[1] - elbos[i] for i in (0, 2)), key=np.mean)
    found = [row.split()[2:] for row in rows]
    assert found == [[f"{each.mean():+.3f}", "±", f"{each.std(ddof=1) / math.sqrt(10):.3f}"] for each in d]
    assert {row.split()[1] for row in rows} == {"0", "2"}
    assert trials.table(3) is None
    assert trials.table(4) is None
    assert trials.table(9) is None


def test_trials_may_be_semi_supervised():
    y = np.where(np.arange(100) % 4, np.arange(100) % 3, -1)
    build = [6], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal
    trials = Trials()
    for number in range(2):
        trials.add(number, SemiSupervisedVAE.build(*build, num_classes=3), from_array(X, y=y))
    assert "trial   1" in trials.table(0)
