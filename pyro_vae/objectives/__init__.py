"""Objectives: Pyro ELBOs, each a gradient estimator of a bound on Σ log p(x); one idea a file.

`Objective` is their contract; derive your own from it:

    objective.bound(model, guide, x, y)    Bound(loss, elbo, log_likelihood)
    objective.at_step(step, epoch)         tells schedules the position in training
    objective.check(model, guide, x, y)    rejects programs that it cannot train
"""

from pyro_vae.objectives.elbo import Trace_ELBO, TraceMeanField_ELBO
from pyro_vae.objectives.free_bits import FreeBits
from pyro_vae.objectives.importance_weighted import IWAE, Renyi
from pyro_vae.objectives.kl_weight import BetaVAE, KLAnnealing
from pyro_vae.objectives.objective import Bound, Objective
from pyro_vae.objectives.path_gradient import DReG, StickingTheLanding
from pyro_vae.objectives.score_function import ScoreFunction
from pyro_vae.objectives.semi_supervised import SemiSupervised
from pyro_vae.objectives.variational_em import VariationalEM
from pyro_vae.objectives.wake_sleep import ReweightedWakeSleep

__all__ = [
    "IWAE",
    "BetaVAE",
    "Bound",
    "DReG",
    "FreeBits",
    "KLAnnealing",
    "Objective",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "SemiSupervised",
    "StickingTheLanding",
    "TraceMeanField_ELBO",
    "Trace_ELBO",
    "VariationalEM",
]
