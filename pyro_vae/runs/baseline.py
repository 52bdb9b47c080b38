"""The log p(x) of a model without latents, which a trained VAE should exceed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.errors import NoEvidence
from pyro_vae.errors.own_code import own_code
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import parts
from pyro_vae.marginal import ELBO, LogEvidence
from pyro_vae.programs.random_state import seeded
from pyro_vae.vae import VAE
from pyro_vae.vae.contract import DISTRIBUTION, require_returned

NAME = "baseline"
COMPARED = 1000
"""Number of validation datapoints whose ELBO is compared after training."""

TRAIN = (
    "train longer (trainer.max_epochs) or raise optimizer.lr; where the dimensions are independent, no model is better"
)


@dataclass(frozen=True)
class Baseline:
    """Independent marginals, which are reported beside a model's log p(x).

    Attributes:
        likelihood: the model's likelihood.
        marginals: its `marginals`, fitted to the training data, or to the first part of data on disk.
    """

    likelihood: Likelihood
    marginals: TorchDistributionMixin

    def beside(self, evidence: LogEvidence, x: Tensor) -> LogEvidence:
        """Add the marginals' log p(x) to the `extra` of the evidence of x `[N, *data_shape]`."""
        with torch.no_grad():
            log_px = torch.cat([self.marginals.log_prob(part) for part in parts(x)])
        return replace(evidence, extra={**evidence.extra, NAME: log_px})

    def warning(self, evidence: LogEvidence) -> str | None:
        """Return a warning if the model is below the marginals by more than two standard errors of the difference.

        The comparison uses log p(x), or the ELBO if that is all there is; the warning says which.
        """
        if NAME not in evidence.extra:
            return None
        only_elbo = evidence.is_bound or not evidence.num_samples
        log_px, independent = evidence.elbo if only_elbo else evidence.log_px, evidence.extra[NAME]
        if len(log_px) < 2:
            return None
        difference = log_px - independent
        if not difference.mean() < -2 * difference.std() / math.sqrt(len(difference)):
            return None
        remedy = self.likelihood.remedy_of_scales(self.marginals, -difference.mean().item()) or TRAIN
        numbers = f"{log_px.mean():.2f} against {independent.mean():.2f} nats per datapoint"
        if only_elbo:
            return (
                f"the model's ELBO is below the log p(x) of independent marginals: {numbers}. An ELBO is a "
                f"lower bound of log p(x), so this does not prove that the model is worse. To improve it: {remedy}"
            )
        return f"the model is worse than independent marginals: log p(x) is {numbers}. To improve it: {remedy}"


def independent_marginals(vae: VAE, data: Dataset) -> Baseline | None:
    """Fit the baseline of a VAE; None if its likelihood has no `marginals`."""
    x = data.sample().x
    with own_code("marginals", likelihood=vae.likelihood):
        marginals = vae.likelihood.marginals(x)
    if marginals is not None:
        require_returned("likelihood", vae.likelihood, "marginals", marginals, TorchDistributionMixin, DISTRIBUTION)
    return None if marginals is None else Baseline(vae.likelihood, marginals)


def elbo_below(vae: VAE, data: Dataset) -> str | None:
    """Return a warning if the ELBO of the validation set is below the baseline's log p(x), else None."""
    if not len(data.val) or (independent := independent_marginals(vae, data)) is None:
        return None
    val = data.val.first(min(len(data.val), COMPARED))
    try:
        with seeded(0, val.x):
            evidence = ELBO(10)(vae.model, vae.guide, val.x, vae.taken_labels(val.y))
    except NoEvidence:  # an autoencoder has none
        return None
    return independent.warning(independent.beside(evidence, val.x))
