"""Estimators of the marginal likelihood log p(x): one a file, one interface.

    evidence = Estimator(...)(vae.model, vae.guide, x)      # -> LogEvidence, per datapoint
    print(table(summarize(evidence, "refined"), "test"))    # the command's table of them

They need Pyro programs whose datapoints lie in one plate at dim −1, and nothing else of a VAE.
"""

from pyro_vae.marginal.ais import AIS
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
from pyro_vae.marginal.summary import summarize, table, verdict

__all__ = [
    "AIS", "BDMC", "ELBO", "NUTS", "Estimator", "Exact", "Importance", "LogEvidence", "NoEstimate", "Prior", "Refined",
    "summarize", "table", "verdict",
]  # fmt: skip
