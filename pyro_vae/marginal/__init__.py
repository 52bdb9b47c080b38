"""Estimators of the marginal likelihood log p(x): one per file, with one interface.

    evidence = Auto()(vae.model, vae.guide, x)           # -> LogEvidence, per datapoint
    print(table(summarize(evidence, "auto"), "test"))    # the table that the commands print

They work with any Pyro model and guide whose datapoints lie in one plate at dim −1.
"""

from pyro_vae.marginal.ais import AIS
from pyro_vae.marginal.auto import Auto
from pyro_vae.marginal.bdmc import BDMC
from pyro_vae.marginal.elbo import ELBO
from pyro_vae.marginal.estimator import Estimator
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.exact import Exact
from pyro_vae.marginal.importance import Importance
from pyro_vae.marginal.no_estimate import NoEstimate
from pyro_vae.marginal.nuts import NUTS
from pyro_vae.marginal.prior import Prior
from pyro_vae.marginal.refined import Refined
from pyro_vae.marginal.sandwich import Sandwich
from pyro_vae.marginal.summary import Summary, summarize, table, verdict

__all__ = [
    "AIS",
    "BDMC",
    "ELBO",
    "NUTS",
    "Auto",
    "Estimator",
    "Exact",
    "Importance",
    "LogEvidence",
    "NoEstimate",
    "Prior",
    "Refined",
    "Sandwich",
    "Summary",
    "summarize",
    "table",
    "verdict",
]  # fmt: skip
