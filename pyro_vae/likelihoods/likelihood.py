"""The contract of likelihoods, and how they start from the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.data.schema import Column
from pyro_vae.data.units import Units, units_of
from pyro_vae.likelihoods.full_gaussian import Joint
from pyro_vae.likelihoods.moments import moments
from pyro_vae.networks.standardize import Standardize


class Likelihood(nn.Module):
    """p(x | z): it maps the decoder's output h to a Pyro distribution of the data.

    `VAE.build` calls `MyLikelihood(data_shape)`. Define `discrete` and `at`; the other members have defaults. Any
    finite h must give a proper distribution.

    If `initialize_from` sets `offset` from the training data, h = 0 gives their mean and spread, so that training
    does not depend on their units.

    Args:
        data_shape: shape of one datapoint.
        num_params: numbers that the distribution needs for each dimension of the data.

    Example:
        >>> import pyro.distributions as dist
        >>> class Laplace(Likelihood):
        ...     discrete = False
        ...
        ...     def __init__(self, data_shape):
        ...         super().__init__(data_shape, num_params=2)
        ...
        ...     def at(self, u):
        ...         loc, log_scale = u.unbind(-1 - self.event_dim)
        ...         return dist.Laplace(loc, log_scale.exp()).to_event(self.event_dim)
        >>> Laplace([28, 28])(torch.zeros(5, 2, 28, 28)).event_shape
        torch.Size([28, 28])
    """

    discrete: bool
    """Whether log p(x) is a log-probability rather than a log-density."""
    unbounded: ClassVar[bool] = False
    """Whether data may have any location and scale; the encoder then sees them standardized."""
    columns: tuple[Column, ...] = ()
    """Of a table, including those that x `[N, P]` leaves out."""
    param_shape: torch.Size
    """Shape `[num_params, *data_shape]` of the decoder's output for one datapoint."""
    integers: ClassVar[str] = "values"
    """What integers in users' arrays stand for: `values`, `counts` or `levels` (`pyro_vae.data.units.units_of`)."""
    event_dim: int
    """Number of dimensions of `data_shape`."""
    offset: Tensor
    """Added to h: `[*param_shape]`."""

    def __init__(self, data_shape: Sequence[int], num_params: int = 1) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([num_params, *data_shape])
        self.register_buffer("offset", torch.zeros(self.param_shape))

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Return p(x | z) for h `[..., *param_shape]`, with batch_shape `[...]` and event_shape `data_shape`."""
        return self.at(h + self.offset)

    @abstractmethod
    def at(self, u: Tensor) -> TorchDistributionMixin:
        """Return the distribution at unconstrained parameters u = h + offset `[..., *param_shape]`."""

    def check(self, x: Tensor) -> str | None:
        """Return a warning if log p(x) of x `[N, *data_shape]` is not what it seems, else None.

        Raises:
            BadInput: if x is outside of the support.
        """
        return None

    def check_observed(self, x: Tensor) -> str | None:
        """Check the entries of x `[N, *data_shape]` that are not NaN, as a vector if there is a NaN, by `check`."""
        missing = x.isnan()
        if missing.any():
            x = x[~missing]
        return self.check(x) if len(x) else None

    def initialize_from(self, x: Tensor) -> None:
        """Set starting values from training data x `[N, *data_shape]`, which may hold NaN; does nothing by default."""

    def marginals(self, x: Tensor) -> TorchDistributionMixin | None:
        """Fit independent distributions to x `[N, *data_shape]`, one for each dimension: the model without latents.

        They belong to this family or to a larger one, with batch_shape `[]`, event_shape `data_shape` and float64
        parameters. None (the default) if there are none to compare the model with.
        """
        return None

    def full_gaussian(self, x: Tensor) -> Joint | None:
        """Fit one Gaussian to x `[N, *data_shape]`, in float64; a table's other columns are independent.

        None (the default) if x does not hold real numbers, or too many for a covariance.
        """
        return None

    def warning_of_scales(self, x: Tensor) -> str | None:
        """Return a warning if one scale does not suit all dimensions of x `[N, *data_shape]`, else None."""
        return None

    def remedy_of_scales(self, marginals: TorchDistributionMixin, deficit: float) -> str | None:
        """Return advice if one scale for all dimensions explains part of a deficit, else None.

        Args:
            marginals: fitted to the training data.
            deficit: nats per datapoint by which the model's log p(x) is lower than theirs.
        """
        return None

    @property
    def units(self) -> Units:
        """What integers in users' arrays are divided by."""
        return units_of(self.integers)

    def encoder_input(self, data_shape: Sequence[int]) -> nn.Module:
        """Return the module x `[..., *data_shape]` -> the encoder's input.

        By default it is a `Standardize` if the likelihood is `unbounded`, else the identity.
        """
        return Standardize(data_shape) if self.unbounded else nn.Identity()

    def location_and_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the location and scale by which the encoder's input is standardized: two tensors `[*data_shape]`."""
        data = moments(x)
        return data.mean, data.unit

    def start_without_data(self) -> dict[str, Tensor]:
        """Return the buffers by name, before `initialize_from`; checkpoints of earlier versions get them, too."""
        return {"offset": torch.zeros(self.param_shape)}

    def register_start(self) -> None:
        """Register the buffers of `start_without_data`."""
        for name, value in self.start_without_data().items():
            self.register_buffer(name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}offset" not in state_dict:  # saved before likelihoods started from the data
            for name, value in self.start_without_data().items():
                state_dict.setdefault(f"{prefix}{name}", value)
            state_dict.pop(f"{prefix}raw_offset", None)  # is in `offset` now
        super()._load_from_state_dict(state_dict, prefix, *args)
