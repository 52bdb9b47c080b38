"""Neural spline flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.transforms import AffineTransform, ConditionalSplineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.errors import BadInput, positive, positive_int
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.autoregressive import autoregressive_network
from pyro_vae.networks.initialization import Heads


class NeuralSpline(Guide):
    """z = μ(x) + σ(x) ⊙ g(ε), ε ~ N(0, I), with g_d a monotonic rational-quadratic spline that ε_{<d} and x determine.

    Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032, §3. The spline acts on [−bound, bound],
    beyond which it is the identity. It starts as the diagonal guide. The density of its last draw takes one pass, that
    of any other value D passes; the mean is not known.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        num_bins: number of segments of a spline.
        bound: half the spline's range, in standard deviations σ.
        hidden: widths of the network of the splines' parameters, at least D.

    Raises:
        BadInput: if an option is out of range.

    Example:
        >>> import torch
        >>> q = NeuralSpline(8, 3, num_bins=4, hidden=[16])(torch.zeros(5, 8))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self, num_features: int, latent_dim: int, num_bins: int = 8, bound: float = 4.0, hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        if not 2 <= positive_int("num_bins", num_bins) <= 500:
            raise BadInput(f"num_bins={num_bins} must lie between 2 and 500")
        self.loc_log_scale = Heads(num_features, latent_dim)
        param_dims = (num_bins, num_bins, num_bins - 1)
        network = autoregressive_network(
            num_features, latent_dim, hidden, network_class=_SplineParameters, param_dims=param_dims
        )
        self.spline = ConditionalSplineAutoregressive(
            latent_dim, network, count_bins=num_bins, bound=positive("bound", bound), order="quadratic"
        )

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = AffineTransform(loc, log_scale.exp(), event_dim=1, cache_size=1)
        return AutoregressiveFlow.of(h, self, base, [self.spline.condition(h), affine])


class _SplineParameters(ConditionalAutoRegressiveNN):
    """Widths and heights of the bins and derivatives at the inner knots, before softmax and softplus; 0: identity.

    They are limited to ±2: steeper splines cannot be inverted in single precision, and Pyro's inverse raises an
    AssertionError.
    """

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, derivatives = (2 * torch.tanh(p / 2) for p in super().forward(x, context))
        return widths, heights, derivatives + math.log(math.e - 1)
