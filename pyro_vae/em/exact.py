"""Exact expectation-maximization, the ancestor of VAEs, for models whose steps have a closed form."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.data import Dataset, Stored
from pyro_vae.em import mixture, ppca
from pyro_vae.errors import BadInput, positive, positive_int
from pyro_vae.guides import Enumerated, FullCovariance
from pyro_vae.likelihoods import Gaussian
from pyro_vae.objectives import Objective
from pyro_vae.parallel import collectives
from pyro_vae.priors import Categorical, StandardNormal
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import Epochs, progress
from pyro_vae.training.algorithm import Row, TrainingAlgorithm
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.state import State
from pyro_vae.training.validation_elbo import MeanELBO
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExactEM(TrainingAlgorithm):
    """Trains a VAE by expectation-maximization in closed form, without gradients.

    An epoch is one iteration over all training data: the E-step sets q(z | x) = p(z | x) exactly, the M-step sets the
    model's parameters to the maximum of E_q[log p(x, z)]. The log-likelihood never decreases (Dempster, Laird & Rubin
    1977, JRSS B 39(1); Neal & Hinton 1998, A view of the EM algorithm: both steps raise the same ELBO). train/elbo is
    the log-likelihood, since the bound is tight after an E-step. Models:

    - probabilistic PCA (Tipping & Bishop 1999, JRSS B 61(3), appendix B): network.hidden=[], likelihood=gaussian with
      scale=learned, prior=standard_normal, guide=full_covariance;
    - mixtures of axis-aligned Gaussians (Bishop 2006, §9.2): network.hidden=[], likelihood=gaussian with
      scale=per_pixel, prior=categorical, guide=enumerated.

    Args:
        max_epochs: maximal number of iterations.
        tolerance: stop when an iteration gains less than this, in nats per datapoint.
        device: see `Trainer`.
    """

    max_epochs: int = 200
    tolerance: float = 1e-4
    device: str = "auto"

    def __post_init__(self) -> None:
        positive_int("max_epochs", self.max_epochs)
        positive("tolerance", self.tolerance)

    def check(self, vae: VAE, objective: Objective, x: Tensor, y: Tensor | None) -> str | None:
        """Return a note that the objective is not used.

        Raises:
            BadInput: if EM has no closed form for this model, or several processes train.
        """
        if vae.missing:
            raise BadInput("trainer=exact_em needs complete data: use trainer=default for missing entries (NaN)")
        _closed_form(vae)
        if collectives.world_size() > 1:
            raise BadInput("trainer=exact_em runs in a single process: start it without torchrun")
        return "exact EM does not use objective, optimizer and scheduler"

    def check_data(self, vae: VAE, data: Dataset) -> None:
        """Check that the training data are in memory, and are enough for a mixture.

        Raises:
            BadInput: if they are not.
        """
        if isinstance(data.train, Stored):
            raise BadInput(
                "trainer=exact_em needs all training data in memory: provide them as a .npz file of dense arrays"
            )
        if len(data.train) < 2:
            raise BadInput("trainer=exact_em needs at least 2 training rows, to have a variance: give more")
        if isinstance(vae.prior, Categorical):
            mixture.require_enough(vae, len(data.train))

    def fit(
        self,
        vae: VAE,
        data: Dataset,
        objective: Objective,
        optim: JointOptim,
        state: State,
        on_epoch: Callable[[Row, bool], None],
        on_start: Callable[[], None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Iterate in double precision from `state`, which advances; `objective` and `optim` are not used."""
        start, m_step = _closed_form(vae)
        self.check_data(vae, data)
        started = time.monotonic() - state.seconds
        vae.double()
        x, val, mean_elbo = data.split("train").x.double(), data.val.x.double(), MeanELBO(vae, chunk_size=1000)
        left, epochs = progress("exact EM", self.max_epochs - state.epoch, "iteration"), Epochs(log, self.max_epochs)
        with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False), epochs, left as tick:
            if state.epoch == 0:
                start(vae, x)
            before = mean_elbo(x)[0] if state.epoch else -math.inf
            if state.epoch >= self.max_epochs:
                log.log(NOTE, "nothing is left to train: max_epochs=%d are done", self.max_epochs)
            while state.epoch < self.max_epochs:
                m_step(vae, x)
                elbo, log_likelihood, _ = mean_elbo(x)
                val_elbo = mean_elbo(val)[0]
                state.step += 1
                seconds = time.monotonic() - started
                row, best = state.end_epoch(elbo, log_likelihood, val_elbo, score=val_elbo, seconds=seconds)
                on_epoch(row, best)
                epochs.tell("iteration %(epoch)4d  log p(x) %(train/elbo)10.4f  val %(val/elbo)10.4f", row)
                on_step()
                tick(1)
                if elbo - before < self.tolerance:
                    break
                before = elbo
        vae.float()


Step = Callable[[VAE, Tensor], None]


def _closed_form(vae: VAE) -> tuple[Step, Step]:
    """Return the functions that set starting values and perform an iteration for this model."""
    linear = (
        not vae.layers
        and vae.context is None
        and sum(isinstance(module, nn.Linear) for module in vae.decoder.modules()) == 1
    )
    if linear and isinstance(vae.likelihood, Gaussian) and len(list(vae.encoder.parameters())) == 0:
        family = (type(vae.prior), type(vae.posterior), vae.likelihood.kind)
        if family == (StandardNormal, FullCovariance, "learned"):
            if not vae.likelihood.has_one_scale:
                raise BadInput(
                    "trainer=exact_em of probabilistic PCA has one σ for all columns: use data.standardize=false"
                )
            return ppca.start, ppca.step
        if family == (Categorical, Enumerated, "per_pixel"):
            return mixture.start, mixture.step
    raise BadInput(
        "trainer=exact_em supports two models, +experiment=em_ppca and +experiment=em_gaussian_mixture: use those, or "
        "trainer=default with objective=variational_em"
    )
