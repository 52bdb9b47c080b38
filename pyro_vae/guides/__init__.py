"""Guides q(z | x), one a file: modules that map the encoder's features to a Pyro distribution of the latent.

`Guide` is their contract; derive your own from it.
"""

from pyro_vae.distributions import CholeskyNormal as CholeskyNormal
from pyro_vae.guides.categorical import Categorical as Categorical
from pyro_vae.guides.diagonal import Diagonal as Diagonal
from pyro_vae.guides.enumerated import Enumerated as Enumerated
from pyro_vae.guides.full_covariance import FullCovariance as FullCovariance
from pyro_vae.guides.guide import Guide as Guide
from pyro_vae.guides.guide import LogJoint as LogJoint
from pyro_vae.guides.inverse_autoregressive import InverseAutoregressive as InverseAutoregressive
from pyro_vae.guides.low_rank import LowRank as LowRank
from pyro_vae.guides.mixture import Mixture as Mixture
from pyro_vae.guides.neural_spline import NeuralSpline as NeuralSpline
from pyro_vae.guides.point import Point as Point
from pyro_vae.guides.semi_amortized import SemiAmortized as SemiAmortized
