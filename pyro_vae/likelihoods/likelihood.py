"""What every likelihood is: its contract, and how it starts from the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Likelihood(nn.Module):
    """p(x | z) of a decoder's output h, as a Pyro distribution.

    `initialize_from` sets buffers so that h = 0 gives the mean and the spread of the training data. Without it they
    keep the values of `start_without_data`, which checkpoints of earlier versions get as well.

    Args:
        data_shape: shape of one datapoint.
        num_params: numbers that the distribution needs for each dimension of the data.
    """

    discrete: ClassVar[bool]
    """Whether log p(x) is a log-probability, not a log-density."""
    unbounded: ClassVar[bool] = False
    """Whether data have any location and scale; the encoder then sees them standardized."""
    offset: Tensor
    """Added to h: `[*param_shape]`."""

    def __init__(self, data_shape: Sequence[int], num_params: int = 1) -> None:
        super().__init__()
        self.event_dim = len(data_shape)
        self.param_shape = torch.Size([num_params, *data_shape])

    def forward(self, h: Tensor) -> TorchDistributionMixin:
        """Unconstrained parameters `[..., *param_shape]` -> p(x | z), batch_shape `[...]`, event_shape `data_shape`."""
        return self.at(h + self.offset)

    @abstractmethod
    def at(self, u: Tensor) -> TorchDistributionMixin:
        """The distribution at unconstrained parameters u = h + offset `[..., *param_shape]`."""

    @abstractmethod
    def check(self, x: Tensor) -> str | None:
        """A warning if log p(x) of x `[N, *data_shape]` is not what it seems, else None.

        Raises:
            BadInput: if the likelihood cannot give x.
        """

    @abstractmethod
    def initialize_from(self, x: Tensor) -> None:
        """Start from training data x `[N, *data_shape]`."""

    @abstractmethod
    def marginals(self, x: Tensor) -> TorchDistributionMixin:
        """Independent distributions, one for each dimension, fitted to x `[N, *data_shape]`.

        This is the model without latents. The distributions are of this family or of a larger one. The batch_shape is
        `[]`, the event_shape `data_shape`, the parameters are float64.
        """

    def warning_of_scales(self, x: Tensor) -> str | None:
        """A warning if training data x `[N, *data_shape]` have scales that one does not fit, else None."""
        return None

    def remedy_of_scales(self, marginals: TorchDistributionMixin, deficit: float) -> str | None:
        """What to do if one scale for all dimensions explains part of a deficit, else None.

        Args:
            marginals: those of the training data.
            deficit: nats per datapoint by which the model is below them.
        """
        return None

    def location_and_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By which the encoder's input is standardized, where data are unbounded: two tensors `[*data_shape]`."""
        raise NotImplementedError

    def start_without_data(self) -> dict[str, Tensor]:
        """The buffers by name, as they are before the likelihood has seen data."""
        return {"offset": torch.zeros(self.param_shape)}

    def register_start(self) -> None:
        """Register the buffers."""
        for name, value in self.start_without_data().items():
            self.register_buffer(name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}offset" not in state_dict:  # saved before likelihoods started from the data
            for name, value in self.start_without_data().items():
                state_dict.setdefault(f"{prefix}{name}", value)
            state_dict.pop(f"{prefix}raw_offset", None)  # is in `offset` now
        super()._load_from_state_dict(state_dict, prefix, *args)
