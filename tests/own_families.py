"""One family of each axis, as a user would write it: of public classes alone."""

import math

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.marginal import Estimator, Importance
from pyro_vae.networks import Network
from pyro_vae.objectives.importance_weighted import MultiSample
from pyro_vae.priors import Prior


class LaplacePrior(Prior):
    """Independent Laplace variables with learned scales."""

    def __init__(self, latent_dim, **data):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, y=None, posterior=None):
        return dist.Laplace(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


class LaplaceLikelihood(Likelihood):
    """Independent Laplace variables with locations and scales from the decoder."""

    discrete = False
    unbounded = True

    def __init__(self, data_shape, min_scale=0.1):
        super().__init__(data_shape, num_params=2)
        self.min_scale = min_scale

    def initialize_from(self, x):
        self.offset[0] = x.median(0).values

    def at(self, u):
        loc, log_scale = u.unbind(-1 - self.event_dim)
        return dist.Laplace(loc, self.min_scale + log_scale.exp()).to_event(self.event_dim)


class FixedScale(Guide):
    """A Gaussian guide with a learned scale that is the same for all x."""

    def __init__(self, num_features, latent_dim, init_scale=0.5):
        super().__init__()
        self.loc = nn.Linear(num_features, latent_dim)
        self.log_scale = nn.Parameter(torch.full((latent_dim,), math.log(init_scale)))

    def forward(self, h, log_joint=None):
        loc = self.loc(h)
        return dist.Normal(loc, self.log_scale.exp().expand_as(loc)).to_event(1)


class Linear(Network):
    """One linear layer each."""

    def __init__(self, width=4):
        self.width = width

    def encoder(self, data_shape, context_dim=0):
        return nn.Sequential(nn.Flatten(-len(data_shape)), nn.Linear(math.prod(data_shape), self.width))

    def decoder(self, latent_dim, param_shape, context_dim=0):
        linear = nn.Linear(latent_dim, math.prod(param_shape))
        return nn.Sequential(linear, nn.Unflatten(-1, tuple(param_shape)))


class Tempered(MultiSample):
    """The ELBO with the entropy of the guide weighted."""

    name = "tempered"

    def __init__(self, num_particles=2, temperature=0.9):
        super().__init__(num_particles)
        self.temperature = temperature

    def surrogate(self, log_p, log_q, traces):
        return (log_p - self.temperature * log_q).mean(0).sum()


class Doubled(Estimator):
    """Importance sampling with twice as many samples."""

    name = "doubled"

    def __init__(self, num_samples=10):
        self.num_samples = num_samples

    def estimate(self, model, guide, x, y, progress):
        return Importance(2 * self.num_samples).estimate(model, guide, x, y, progress)
