"""The log p(x) of two models without latents, which a trained VAE should exceed."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass, replace

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput, in_callers_names
from pyro_vae.errors.own_code import own_code
from pyro_vae.likelihoods.full_gaussian import Joint
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import num_observed, parts
from pyro_vae.marginal import ELBO, LogEvidence
from pyro_vae.programs.missing import observe
from pyro_vae.programs.random_state import seeded
from pyro_vae.vae import VAE
from pyro_vae.vae.contract import DISTRIBUTION, require_returned

log = logging.getLogger(__name__)

NAME, GAUSSIAN = "baseline", "baseline_gaussian"
COMPARED = 1000
"""Number of validation datapoints whose ELBO is compared after training."""

TRAIN = (
    "train longer (trainer.max_epochs) or raise optimizer.lr; where the dimensions are independent, no model is better"
)
LATENTS = "raise latent_dim, or train longer (trainer.max_epochs)"


@dataclass(frozen=True)
class Baseline:
    """Independent marginals and one Gaussian, which are reported beside a model's log p(x).

    Attributes:
        likelihood: the model's likelihood.
        marginals: its `marginals`, fitted to the training data, or to the first part of data on disk.
        fill: see `programs.missing.observe`; None if the data are complete.
        gaussian: the likelihood's `full_gaussian`, fitted to the same data, or None.
        mask: independent probabilities that entries are observed, if the model has a missingness model; its log p(x) is
            log p(x_obs, mask).
    """

    likelihood: Likelihood
    marginals: TorchDistributionMixin
    fill: Tensor | None = None
    gaussian: Joint | None = None
    mask: TorchDistributionMixin | None = None

    def beside(self, evidence: LogEvidence, x: Tensor) -> LogEvidence:
        """Add the baselines' log p(x) to the `extra` of the evidence of x `[N, *data_shape]`."""
        with torch.no_grad():
            log_px = {NAME: torch.cat([self._log_prob(part) for part in parts(x)])}
            if self.gaussian is not None:
                log_px[GAUSSIAN] = torch.cat([self.gaussian.log_prob(part) for part in parts(x)])
            if self.mask is not None:
                of_mask = torch.cat([self.mask.log_prob((~part.isnan()).double()) for part in parts(x)])
                log_px = {name: value + of_mask for name, value in log_px.items()}
        return replace(evidence, extra={**evidence.extra, **log_px})

    def _log_prob(self, x: Tensor) -> Tensor:
        p_x = self.marginals
        if self.fill is not None:
            p_x, x = observe(p_x, x, self.fill)
        log_prob: Tensor = p_x.log_prob(x)
        return log_prob

    def exceeds(self, evidence: LogEvidence, name: str = NAME) -> bool:
        """Return whether a baseline exceeds the model by more than two standard errors of the difference.

        The comparison uses log p(x), or the ELBO if that is all there is.
        """
        if name not in evidence.extra or len(evidence.elbo) < 2:
            return False
        difference = _log_px(evidence) - evidence.extra[name]
        return bool(difference.mean() < -2 * difference.std() / math.sqrt(len(difference)))

    def warn(self, evidence: LogEvidence) -> None:
        """Warn if a baseline exceeds the model, saying whether its log p(x) or its ELBO was compared."""
        name = next((name for name in (NAME, GAUSSIAN) if self.exceeds(evidence, name)), None)
        if name is None:
            return
        model, other = _log_px(evidence).mean().item(), evidence.extra[name].mean().item()
        what, remedy = "one Gaussian with full covariance", LATENTS
        if name == NAME:
            what = "independent marginals"
            remedy = self.likelihood.remedy_of_scales(self.marginals, other - model) or TRAIN
        numbers = f"{model:.2f} against {other:.2f} nats per datapoint"
        text = f"the model is worse than {what}: log p(x) is {numbers}. To improve it: {remedy}"
        if _only_elbo(evidence):
            text = (
                f"the model's ELBO is below the log p(x) of {what}: {numbers}. An ELBO is a "
                f"lower bound of log p(x), so this does not prove that the model is worse. To improve it: {remedy}"
            )
        log.warning(in_callers_names(text))


def _only_elbo(evidence: LogEvidence) -> bool:
    return evidence.is_bound or not evidence.num_samples


def _log_px(evidence: LogEvidence) -> Tensor:
    return evidence.elbo if _only_elbo(evidence) else evidence.log_px


def fitted(vae: VAE, data: Dataset) -> Baseline | None:
    """Fit the baselines of a VAE; None if its likelihood has no `marginals`."""
    baseline = independent_marginals(vae, data)
    if baseline is None:
        return None
    with own_code("full_gaussian", likelihood=vae.likelihood):
        return replace(baseline, gaussian=vae.likelihood.full_gaussian(data.sample().x))


def independent_marginals(vae: VAE, data: Dataset) -> Baseline | None:
    """Fit the first baseline of a VAE; None if its likelihood has no `marginals`."""
    x = data.sample().x
    with own_code("marginals", likelihood=vae.likelihood):
        marginals = vae.likelihood.marginals(x)
    if marginals is not None:
        require_returned("likelihood", vae.likelihood, "marginals", marginals, TorchDistributionMixin, DISTRIBUTION)
    if marginals is None:
        return None
    mask = None if vae.missingness is None else independent_mask(x)
    return Baseline(vae.likelihood, marginals, vae.fill if vae.missing else None, mask=mask)


def independent_mask(x: Tensor) -> TorchDistributionMixin:
    """Return the distribution of independent masks `[*data_shape]`, with the frequencies in x `[N, *data_shape]`."""
    observed = (torch.as_tensor(num_observed(x), device=x.device) + 1).double() / (len(x) + 2)
    return dist.Bernoulli(observed.expand(x.shape[1:])).to_event(x.dim() - 1)


def warn_of_elbo(vae: VAE, data: Dataset) -> None:
    """Warn if the ELBO of the validation set is below the log p(x) of independent marginals."""
    if not len(data.val) or (independent := independent_marginals(vae, data)) is None:
        return
    val = data.val.first(min(len(data.val), COMPARED))
    with suppress(BadInput):  # an autoencoder has none, and `check_parts` has told why others have none
        y = vae.taken_labels(val.y)
        with seeded(0, val.x):
            evidence = ELBO(10)(*vae.programs(y), val.x, y)
        independent.warn(independent.beside(evidence, val.x))
