"""The KL from correlated to independent Gaussians in closed form, which torch and Pyro lack."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, register_kl


@register_kl(MultivariateNormal, Independent)  # type: ignore[untyped-decorator]
@register_kl(LowRankMultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def kl_to_independent_normal(p: MultivariateNormal | LowRankMultivariateNormal, q: Any) -> Tensor:
    """Return KL(p ‖ N(m, diag s²)) = −H(p) − E_p log q, nats; E_p log q depends only on p's mean and variances."""
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    expected_log_q = q.base_dist.log_prob(p.mean) - 0.5 * p.variance / q.base_dist.scale.square()
    entropy: Tensor = p.entropy()  # type: ignore[no-untyped-call]
    return -entropy - expected_log_q.sum(-1)
