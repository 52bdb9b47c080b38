"""The evidence lower bound, the crudest estimator of log p(x)."""

from collections.abc import Sequence

from torch import Tensor

from pyro_vae.marginal.evidence import Accumulator, LogEvidence
from pyro_vae.marginal.importance import Importance
from pyro_vae.programs.trace import Program


class ELBO(Importance):
    """Estimates the ELBO, (1/K) Σ_k log (p(x, z_k) / q(z_k | x)) with z_k ~ q(z | x), and reports it as `log_px`.

    It is a lower bound for any K: Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, eq. 2. Arguments and errors
    are those of `Importance`.

    Example:
        >>> bool((ELBO(100)(vae.model, vae.guide, x).log_px < 0).all())
        True
    """

    name = "elbo"

    def __init__(
        self,
        num_samples: int | Sequence[int] = 100,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
    ) -> None:
        super().__init__(num_samples, chunk_size, compile)

    def advice(self, discrete: bool = False) -> None:
        """Return None: the user has asked for a bound."""

    def reduce(self, sums: Accumulator) -> LogEvidence:
        """Return the estimate, given sums over all K log-weights."""
        return sums.mean_log()


def guide_elbo(model: Program, guide: Program, x: Tensor, y: Tensor | None = None, num_samples: int = 10) -> Tensor:
    """Estimate the guide's ELBO, `[N]`, which estimators with another proposal report beside log p(x)."""
    return ELBO(num_samples).estimate(model, guide, x, y, lambda pairs: None).log_px
