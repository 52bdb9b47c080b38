"""Every bound on log p(x) has probabilistic PCA's maximum likelihood as its optimum, where the guide can be exact."""

import math
from functools import partial

import pyro
import pytest
import torch
from conftest import make_ppca
from pyro.infer import SVI
from torch.distributions import MultivariateNormal

from pyro_vae import objectives
from pyro_vae.guides import FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.training.optim import JointOptim
from pyro_vae.vae import VAE

D, d, N, STEPS = 5, 2, 500, 80


def maximum_log_likelihood(x):
    """Per datapoint, nats: Tipping & Bishop (1999), Probabilistic principal component analysis, eqs. 4 and 6 to 8."""
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    sigma2 = eigenvalues[d:].mean()
    log_det = eigenvalues[:d].log().sum() + (D - d) * sigma2.log()
    return -0.5 * (D * math.log(2 * math.pi) + log_det + D).item()


def log_likelihood(vae, x):
    """Mean log p(x) of a linear VAE."""
    linear, sigma = vae.decoder[0], vae.p_x(torch.zeros(d).double()).stddev.mean()
    covariance = linear.weight @ linear.weight.T + sigma**2 * torch.eye(D).double()
    return MultivariateNormal(linear.bias, covariance).log_prob(x).mean().item()


OBJECTIVES = {
    "KLAnnealing": partial(objectives.KLAnnealing, num_epochs=10),
    "BetaVAE": partial(objectives.BetaVAE, beta=1.0),
    "IWAE": partial(objectives.IWAE, num_particles=5),
    "DReG": partial(objectives.DReG, num_particles=5),
    "Renyi": partial(objectives.Renyi, num_particles=5),
}


@pytest.mark.parametrize("name", sorted({*objectives.__all__} - {"Bound", "Objective", "SemiSupervised"}))
def test_trains_probabilistic_pca_to_maximum_likelihood(name):
    truth = make_ppca()
    x = truth.evidence.sample((N,))
    likelihood = partial(Gaussian, scale="learned", init_scale=0.55)
    vae = VAE.build([D], d, MLP([]), StandardNormal, likelihood, FullCovariance).double()
    truth.set_exact_guide()
    with torch.no_grad():  # the parameters that the data were made with, changed by 10 %, and their guide
        vae.posterior.load_state_dict(truth.vae.posterior.state_dict())
        vae.decoder[0].weight.copy_(truth.W * (1 + 0.1 * torch.randn_like(truth.W)))
        vae.decoder[0].bias.copy_(truth.b * (1 + 0.1 * torch.randn_like(truth.b)))
    num_steps = 2 * STEPS if name == "VariationalEM" else STEPS  # as many for each program
    objective = OBJECTIVES.get(name, getattr(objectives, name))()
    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.03 ** (1 / num_steps))
    optim = JointOptim(partial(torch.optim.Adam, lr=0.05), schedule)
    svi = SVI(vae.model, vae.guide, optim, loss=lambda *args: objective.differentiable_loss(*args) / N)
    best = maximum_log_likelihood(x)
    with torch.no_grad():
        assert log_likelihood(vae, x) < best - 0.05
    with pyro.validation_enabled(False):
        for step in range(num_steps):
            objective.at_step(step, float(step))
            svi.step(x)
            optim.end_epoch(0.0)
    with torch.no_grad():
        found = log_likelihood(vae, x)
    assert best - 0.004 < found <= best + 1e-9
