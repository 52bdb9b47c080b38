"""Objectives: Pyro ELBOs, each a gradient estimator of a bound on Σ log p(x); one idea a file.

    objective.differentiable_loss(model, guide, x, y)    −bound, summed over the batch; `.backward()` as the paper says
    objective.check(model, guide, x, y)                  refuses what it cannot train

They stand in for `pyro.infer.Trace_ELBO` in `pyro.infer.SVI`. Datapoints lie in a plate at dim −1, particles at dim −2.
"""

from pyro_vae.objectives.elbo import Trace_ELBO, TraceMeanField_ELBO
from pyro_vae.objectives.free_bits import FreeBits
from pyro_vae.objectives.importance_weighted import IWAE, Renyi
from pyro_vae.objectives.kl_weight import BetaVAE, KLAnnealing
from pyro_vae.objectives.path_gradient import DReG, StickingTheLanding
from pyro_vae.objectives.score_function import ScoreFunction
from pyro_vae.objectives.variational_em import VariationalEM
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "IWAE",
    "BetaVAE",
    "DReG",
    "FreeBits",
    "KLAnnealing",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "StickingTheLanding",
    "TraceMeanField_ELBO",
    "Trace_ELBO",
    "VariationalEM",
]
