"""The evidence lower bound, as the crudest estimator of log p(x)."""

from torch import Tensor

from pyro_vae.marginal.evidence import Accumulator, LogEvidence
from pyro_vae.marginal.importance import Importance
from pyro_vae.programs.trace import Program


class ELBO(Importance):
    """(1/K) Σ_k log (p(x, z_k) / q(z_k | x)), z_k ~ q(z | x): a lower bound for any K, reported as `log_px`.

    Kingma & Welling (2014), eq. 2. Arguments and errors as for `Importance`.
    """

    def advice(self, discrete: bool = False) -> None:
        """None: the user has asked for a bound."""

    def reduce(self, sums: Accumulator) -> LogEvidence:
        """The estimate from sums over all K log-weights."""
        return sums.mean_log()


def guide_elbo(model: Program, guide: Program, x: Tensor, y: Tensor | None = None, num_samples: int = 10) -> Tensor:
    """The guide's ELBO, `[N]`: what an estimator with another proposal reports beside log p(x)."""
    return ELBO(num_samples).estimate(model, guide, x, y, lambda pairs: None).log_px
