"""Guides q(z | x), one a file: modules that map the encoder's features to a Pyro distribution of the latent.

`Guide` is their contract; derive your own from it.
"""

from pyro_vae.distributions import CholeskyNormal as CholeskyNormal
from pyro_vae.guides.categorical import Categorical
from pyro_vae.guides.diagonal import Diagonal
from pyro_vae.guides.enumerated import Enumerated
from pyro_vae.guides.full_covariance import FullCovariance
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.guides.inverse_autoregressive import InverseAutoregressive
from pyro_vae.guides.low_rank import LowRank
from pyro_vae.guides.mixture import Mixture
from pyro_vae.guides.neural_spline import NeuralSpline
from pyro_vae.guides.point import Point
from pyro_vae.guides.semi_amortized import SemiAmortized

__all__ = [
    "Categorical",
    "Diagonal",
    "Enumerated",
    "FullCovariance",
    "Guide",
    "InverseAutoregressive",
    "LogJoint",
    "LowRank",
    "Mixture",
    "NeuralSpline",
    "Point",
    "SemiAmortized",
]
