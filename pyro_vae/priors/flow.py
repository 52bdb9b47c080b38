"""A normalizing flow as the prior, from zuko."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import MAX_WIDTH, BadInput, positive_int, positive_ints
from pyro_vae.priors.prior import Posterior, Prior


class Flow(Prior):
    """A masked autoregressive flow: a density needs one pass of its networks, a draw D passes.

    Papamakarios, Pavlakou & Murray (2017), Masked autoregressive flow for density estimation,
    https://arxiv.org/abs/1705.07057; as a VAE's prior Chen et al. (2017), Variational lossy autoencoder,
    https://arxiv.org/abs/1611.02731.

    Args:
        latent_dim: D.
        num_transforms: number of affine autoregressive transforms; the order of the dimensions alternates.
        hidden: widths of their networks.
        **data: ignored.

    Raises:
        BadInput: if zuko is not installed, or an option is out of its range.

    Example:
        >>> import torch
        >>> Flow(2, num_transforms=2, hidden=[8])().log_prob(torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    def __init__(self, latent_dim: int, num_transforms: int = 3, hidden: Sequence[int] = (64, 64), **data: Any) -> None:
        super().__init__()
        try:
            from zuko.flows import MAF
        except ImportError as error:
            raise BadInput("prior=flow needs zuko: pip install -e '.[flows]'") from error
        self.flow = MAF(
            latent_dim,
            transforms=positive_int("num_transforms", num_transforms, MAX_WIDTH),
            hidden_features=positive_ints("hidden", hidden),
        )
        if latent_dim == 1:  # zuko draws these from N(0, 1), and the first loss is in the thousands
            for parameter in self.flow.parameters():
                nn.init.zeros_(parameter)

    def forward(self, y: Tensor | None = None, posterior: Posterior | None = None) -> TorchDistributionMixin:
        """Return p(z), with batch_shape `[]` and event_shape `[latent_dim]`."""
        return _FlowDistribution(self.flow())


class _FlowDistribution(ZukoToPyro):
    """`ZukoToPyro` with the members of a Pyro distribution that it lacks."""

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def expand(self, batch_shape: Any, _instance: Any = None) -> _FlowDistribution:
        return _FlowDistribution(self.dist.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z: Tensor = self.dist.rsample(torch.Size(sample_shape))
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError("the mean of a flow is not known")
