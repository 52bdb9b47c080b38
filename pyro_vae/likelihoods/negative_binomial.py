"""The likelihood of counts whose variance exceeds their mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.distributions import NegativeBinomialInDouble
from pyro_vae.likelihoods.checks import are_counts
from pyro_vae.likelihoods.moments import moments, num_observed
from pyro_vae.likelihoods.poisson import Counts, mean_count
from pyro_vae.likelihoods.softplus import Start


class NegativeBinomial(Counts):
    """p(x | z) = Π_d NB(x_d; mean m_d(z), variance m_d + α_d m_d²), for overdispersed counts 0, 1, 2, ….

    The mean is that of `Poisson`. The dispersion α_d is learned for each data dimension and does not depend on z; the
    Poisson is the limit α = 0. As in scVI: Lopez, Regier, Cole, Jordan & Yosef (2018), Deep generative modeling for
    single-cell transcriptomics, https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        data_shape: shape of one datapoint.
        init_dispersion: starting value of α; None: the value that gives each dimension's variance in the data or, if
            there are none, 0.5.
        min_dispersion: its lower bound; 0 would be the Poisson.

    Example:
        >>> import torch
        >>> p = NegativeBinomial([6])(torch.zeros(5, 1, 6))
        >>> bool((p.variance > p.mean).all())  # as in overdispersed counts
        True
    """

    def __init__(
        self, data_shape: Sequence[int], init_dispersion: float | None = None, min_dispersion: float = 0.001
    ) -> None:
        super().__init__(data_shape)
        self.start = Start("dispersion", init_dispersion, min_dispersion)
        self.min_dispersion = min_dispersion
        self.raw_dispersion = nn.Parameter(self.start.raw(torch.full(tuple(data_shape), 0.5), torch.ones(())))
        self.register_start()

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set means and dispersions to those of x `[N, *data_shape]`."""
        super().initialize_from(x)
        self.raw_dispersion.copy_(self.start.raw(self._dispersion(x)[1], torch.ones(())))

    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for means before their softplus."""
        return self._of(self.mean(u), self.min_dispersion + F.softplus(self.raw_dispersion))

    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Return negative binomials with each dimension's mean and variance, as far as the bound of α allows."""
        return self._of(*self._dispersion(x))

    def _dispersion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means, and the dispersions that give the variances, float64, `[*data_shape]`."""
        data = moments(x)
        mean = mean_count(data, num_observed(x))
        return mean, ((data.sd.square() - mean) / mean.square()).clamp(min=self.min_dispersion)

    def _of(self, mean: Tensor, alpha: Tensor) -> TorchDistributionMixin:
        return NegativeBinomialInDouble(1 / alpha, logits=(mean * alpha).log()).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """Return a warning if x is binary, else None.

        Raises:
            BadInput: if a value is not a count.
        """
        return are_counts("negative_binomial", x)
