"""The likelihood of binary data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.likelihoods.checks import in_unit_interval, is_binary


class Bernoulli(nn.Module):
    """p(x | z) = Π_d Bernoulli(x_d; sigmoid(h_d)), for data in {0, 1}.

    Args:
        data_shape: shape of one datapoint.
    """

    discrete = True

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([1, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Logits `[..., 1, *data_shape]` -> p(x | z), batch_shape `[...]`, event_shape `data_shape`."""
        # validate_args=False: grey values in [0, 1] may be trained on, after check() has warned
        logits = h.squeeze(-1 - self.event_dim)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """A warning if log p(x) of `x` is not a likelihood, else None.

        Raises:
            BadInput: if a value lies outside [0, 1].
        """
        in_unit_interval("bernoulli", x)
        if is_binary(x):
            return None
        return (
            "likelihood=bernoulli on data that are not 0 or 1: log p(x) is not a likelihood of these data "
            "(the Bernoulli does not integrate to 1 over [0, 1]); take data.binarize=dynamic or another likelihood"
        )
