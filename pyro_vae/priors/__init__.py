"""Priors p(z): modules that return a Pyro distribution over the latent; one a file.

    prior(y, posterior)    y: labels `[N]` of a conditional model; posterior: x -> q(z | x)

They are made by `Prior(latent_dim, data_shape=…, num_classes=…, **options)`: of the data most need to know nothing.
"""

from pyro_vae.priors.categorical import Categorical
from pyro_vae.priors.class_conditional import ClassConditional
from pyro_vae.priors.flow import Flow
from pyro_vae.priors.mixture import Mixture
from pyro_vae.priors.standard_normal import StandardNormal
from pyro_vae.priors.vamp import Vamp

__all__ = ["Categorical", "ClassConditional", "Flow", "Mixture", "StandardNormal", "Vamp"]
