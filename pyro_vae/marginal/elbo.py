"""The evidence lower bound, as the crudest estimator of log p(x)."""

from pyro_vae.marginal.evidence import Accumulator, LogEvidence
from pyro_vae.marginal.importance import Importance


class ELBO(Importance):
    """(1/K) Σ_k log (p(x, z_k) / q(z_k | x)), z_k ~ q(z | x): a lower bound for any K, reported as `log_px`.

    Kingma & Welling (2014), eq. 2. Arguments and errors as for `Importance`.
    """

    def reduce(self, sums: Accumulator) -> LogEvidence:
        """The estimate from sums over all K log-weights."""
        return sums.mean_log()
