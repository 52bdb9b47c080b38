"""Priors p(z), one a file: modules that return a Pyro distribution of the latent.

`Prior` is their contract; derive your own from it.
"""

from pyro_vae.priors.categorical import Categorical
from pyro_vae.priors.class_conditional import ClassConditional
from pyro_vae.priors.flow import Flow
from pyro_vae.priors.mixture import Mixture
from pyro_vae.priors.prior import Prior
from pyro_vae.priors.standard_normal import StandardNormal
from pyro_vae.priors.vamp import Vamp

__all__ = ["Categorical", "ClassConditional", "Flow", "Mixture", "Prior", "StandardNormal", "Vamp"]
