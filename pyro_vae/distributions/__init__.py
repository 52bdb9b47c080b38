"""Distributions that Pyro lacks, and KL divergences that torch and Pyro lack."""

from pyro_vae.distributions.autoregressive_flow import AutoregressiveFlow
from pyro_vae.distributions.cholesky_normal import CholeskyNormal
from pyro_vae.distributions.columns import Columns, Group, Row
from pyro_vae.distributions.in_double import (
    BetaInDouble,
    NegativeBinomialInDouble,
    PoissonInDouble,
    StudentTInDouble,
)
from pyro_vae.distributions.logistic_levels import LogisticLevels
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixture_of_normals import MixtureOfNormals
from pyro_vae.distributions.normal_kl import kl_to_independent_normal

__all__ = [
    "AutoregressiveFlow",
    "BetaInDouble",
    "CholeskyNormal",
    "Columns",
    "Group",
    "LogisticLevels",
    "LowRankNormal",
    "MixtureOfNormals",
    "NegativeBinomialInDouble",
    "PoissonInDouble",
    "Row",
    "StudentTInDouble",
    "kl_to_independent_normal",
]
