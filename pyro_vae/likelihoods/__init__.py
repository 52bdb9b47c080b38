"""Likelihoods p(x | z), one a file: modules that map the decoder's output to a Pyro distribution of the data.

`Likelihood` is their contract; derive your own from it.
"""

from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.beta import Beta
from pyro_vae.likelihoods.categorical import Categorical
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.gaussian import Gaussian
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.negative_binomial import NegativeBinomial
from pyro_vae.likelihoods.poisson import Poisson
from pyro_vae.likelihoods.student_t import StudentT
from pyro_vae.likelihoods.table import Table

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "Table",
]
