"""Likelihoods p(x | z): modules that map the decoder's output to a Pyro distribution over the data; one a file.

    likelihood(h)    h `[..., *param_shape]` -> p(x | z), batch_shape `[...]`, event_shape `data_shape`

Each has a `param_shape`, the shape `[num_params, *data_shape]` that the decoder must produce for one
datapoint; `discrete`, whether log p(x) is a log-probability or a log-density; and `check(x)`, which says whether
log p(x) of such data means anything. h is unconstrained: any finite value gives a proper distribution.
"""

from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.beta import Beta
from pyro_vae.likelihoods.categorical import Categorical
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.gaussian import Gaussian
from pyro_vae.likelihoods.negative_binomial import NegativeBinomial
from pyro_vae.likelihoods.poisson import Poisson
from pyro_vae.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
]
