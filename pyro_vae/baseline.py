"""The log p(x) of a model without latents: a VAE below it has not learnt its data."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.errors import NoEvidence
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import parts
from pyro_vae.marginal import ELBO, LogEvidence
from pyro_vae.noise import seeded
from pyro_vae.vae import VAE

NAME = "baseline"
COMPARED = 1000
"""Validation datapoints whose ELBO is compared after training."""


def independent_marginals(vae: VAE, data: Dataset) -> TorchDistributionMixin | None:
    """The likelihood's `marginals` of the training data, or of the first part of data on disk.

    None if the likelihood is a class of yours that does not derive from `Likelihood`.
    """
    return vae.likelihood.marginals(data.sample().x) if isinstance(vae.likelihood, Likelihood) else None


def beside(evidence: LogEvidence, marginals: TorchDistributionMixin | None, x: Tensor) -> LogEvidence:
    """The evidence of x `[N, *data_shape]`, with the baseline's log p(x) in its `extra`."""
    if marginals is None:
        return evidence
    with torch.no_grad():
        log_px = torch.cat([marginals.log_prob(part) for part in parts(x)])
    return replace(evidence, extra={**evidence.extra, NAME: log_px})


def below(evidence: LogEvidence, what: str = "log p(x)") -> str | None:
    """A warning if `what` is below the baseline by more than two standard errors of the difference."""
    if NAME not in evidence.extra or len(evidence.log_px) < 2:
        return None
    difference = evidence.log_px - evidence.extra[NAME]
    if not difference.mean() < -2 * difference.std() / math.sqrt(len(difference)):
        return None
    return (
        f"warning: the model is worse than independent marginals: its {what} is {evidence.log_px.mean():.2f}, theirs "
        f"{evidence.extra[NAME].mean():.2f} nats per datapoint: train longer (trainer.max_epochs) or "
        "raise optimizer.lr; where the dimensions are independent, no model is better"
    )


def elbo_below(vae: VAE, data: Dataset) -> str | None:
    """A warning if the ELBO of the validation set is below the baseline's log p(x)."""
    if not len(data.val):
        return None
    val = data.val.first(min(len(data.val), COMPARED))
    try:
        with seeded(0, val.x):
            evidence = ELBO(10)(vae.model, vae.guide, val.x, vae.taken_labels(val.y))
    except NoEvidence:  # of an autoencoder
        return None
    return below(beside(evidence, independent_marginals(vae, data), val.x), "ELBO, a lower bound of log p(x),")
