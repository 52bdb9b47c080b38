"""Families of a table's columns of categories, whose values are indices."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae.likelihoods.column_family import Family, Observed, each
from pyro_vae.likelihoods.scaled import GAIN
from pyro_vae.likelihoods.softplus import inverse_softplus

MIN_GAP = 0.001
"""Lower bound of the distance between two cutpoints of an ordinal column."""


class Binary(Family):
    """Bernoulli."""

    def start(self, y: Observed) -> Tensor:
        """Start at the frequency of 1, after adding half a value of each."""
        return each(y, lambda values: ((values.sum() + 0.5) / (len(values) + 1)).logit()).unsqueeze(-1)

    def at(self, u: Tensor) -> Any:
        """Return Bernoulli distributions."""
        return dist.Bernoulli(logits=u.squeeze(-1))

    def marginals(self, y: Observed) -> Any:
        """Return the data's frequencies."""
        return self.at(self.start(y))


class Categorical(Family):
    """Categories without an order."""

    def __init__(self, num_columns: int, num_categories: int) -> None:
        super().__init__()
        self.num_params = num_categories

    def start(self, y: Observed) -> Tensor:
        """Start at the frequencies."""
        return torch.stack([_log_frequencies(values, self.num_params) for values in y])

    def at(self, u: Tensor) -> Any:
        """Return categorical distributions."""
        return dist.Categorical(logits=u)

    def marginals(self, y: Observed) -> Any:
        """Return the data's frequencies."""
        return self.at(self.start(y))


class Ordinal(Family):
    """The cumulative logit model P(x ≤ k | u) = sigmoid(c_k − u), with learned cutpoints c_1 < c_2 < ….

    McCullagh (1980), Regression models for ordinal data, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x.
    """

    def __init__(self, num_columns: int, num_categories: int) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.raw_first = nn.Parameter(torch.zeros(num_columns, 1))
        self.raw_gaps = nn.Parameter(torch.zeros(num_columns, num_categories - 2))

    @torch.no_grad()
    def start(self, y: Observed) -> Tensor:
        """Start the cutpoints at the cumulative frequencies."""
        probs = torch.stack([_log_frequencies(values, self.num_categories) for values in y]).exp()
        cutpoints = probs.cumsum(-1)[:, :-1].logit()
        self.raw_first.copy_(cutpoints[:, :1] / GAIN)
        self.raw_gaps.copy_(inverse_softplus(cutpoints.diff(dim=-1) - MIN_GAP) / GAIN)
        return torch.zeros(len(y), 1)

    def at(self, u: Tensor) -> Any:
        """Return categorical distributions."""
        return dist.Categorical(logits=self.log_probs(u))

    def log_probs(self, u: Tensor) -> Tensor:
        """Return the log-probabilities `[..., n, num_categories]` at u `[..., n, 1]`, without cancellation.

        sigmoid(b) − sigmoid(a) = sigmoid(b) sigmoid(−a) (1 − e^(a − b)).
        """
        gaps = MIN_GAP + F.softplus(GAIN * self.raw_gaps)
        below = torch.cat([GAIN * self.raw_first, gaps], -1).cumsum(-1) - u
        between = F.pad((-torch.expm1(-gaps)).log(), (1, 1))
        return F.pad(F.logsigmoid(below), (0, 1)) + F.pad(F.logsigmoid(-below), (1, 0)) + between

    def marginals(self, y: Observed) -> Any:
        """Return the data's frequencies."""
        return dist.Categorical(logits=torch.stack([_log_frequencies(values, self.num_categories) for values in y]))


def _log_frequencies(values: Tensor, num_categories: int) -> Tensor:
    """Return the log-frequencies of 0, …, num_categories − 1, with one more value spread over them."""
    counts = torch.bincount(values.long(), minlength=num_categories).double()
    return ((counts + 1 / num_categories) / (len(values) + 1)).log()
