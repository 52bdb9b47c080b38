"""Likelihoods p(x | z): modules that map the decoder's output to a Pyro distribution over the data.

Each has a `param_shape`, the shape `[num_params, *data_shape]` that the decoder must produce for one
datapoint, and `check(x)`, which says whether log p(x) of such data means anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput, one_of, positive


def is_binary(x: Tensor) -> bool:
    """Whether every value is 0 or 1."""
    return bool(((x == 0) | (x == 1)).all())


class Bernoulli(nn.Module):
    """p(x | z) = Π_d Bernoulli(x_d; sigmoid(h_d)), for data in {0, 1}.

    Args:
        data_shape: shape of one datapoint.
    """

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
        low, high = x.min().item(), x.max().item()
        if low < 0 or high > 1:
            raise BadInput(
                f"likelihood=bernoulli needs values in [0, 1], the data span [{low:.4g}, {high:.4g}]: "
                "rescale them or take likelihood=gaussian"
            )
        if is_binary(x):
            return None
        return (
            "likelihood=bernoulli on data that are not 0 or 1: log p(x) is not a likelihood of these data "
            "(the Bernoulli does not integrate to 1 over [0, 1]); take data.binarize=dynamic or another likelihood"
        )


class Gaussian(nn.Module):
    """p(x | z) = N(x; μ(z), σ²), a density for continuous data.

    Args:
        data_shape: shape of one datapoint.
        scale: `fixed` (σ = `init_scale`), `learned` (one number) or `per_pixel` (σ(z) from the decoder).
        init_scale: σ, or its starting value.
        min_scale: lower bound of a learned σ: without one the density of constant pixels has no maximum.
    """

    fixed_scale: Tensor
    raw_offset: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        scale: str = "learned",
        init_scale: float = 0.1,
        min_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.kind = one_of("likelihood.scale", scale, ("fixed", "learned", "per_pixel"))
        init_scale = positive("likelihood.init_scale", init_scale)
        self.min_scale = positive("likelihood.min_scale", min_scale)
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([2 if scale == "per_pixel" else 1, *data_shape])
        if scale == "fixed":
            self.register_buffer("fixed_scale", torch.tensor(init_scale))
            return
        if init_scale <= min_scale:
            raise BadInput(f"likelihood.init_scale={init_scale} must exceed likelihood.min_scale={min_scale}")
        # softplus⁻¹: σ starts at init_scale
        excess = init_scale - min_scale
        raw = torch.tensor(excess + math.log(-math.expm1(-excess)))
        if scale == "learned":
            self.raw_scale = nn.Parameter(raw)
        else:
            self.register_buffer("raw_offset", raw)

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Parameters `[..., 1 or 2, *data_shape]` -> p(x | z), event_shape `data_shape`."""
        loc, *raw = h.unbind(-1 - self.event_dim)
        scale: Tensor
        if self.kind == "fixed":
            scale = self.fixed_scale
        elif self.kind == "learned":
            scale = self.min_scale + F.softplus(self.raw_scale)
        else:
            scale = self.min_scale + F.softplus(raw[0] + self.raw_offset)
        return dist.Normal(loc, scale).to_event(self.event_dim)

    def check(self, x: Tensor) -> str | None:
        """A warning if `x` is discrete, so that a density says little about it, else None."""
        if not is_binary(x):
            return None
        return (
            "likelihood=gaussian on binary data: log p(x) is a density, which no discrete likelihood's "
            "log p(x) compares with; take likelihood=bernoulli"
        )
