"""Checks before training that the parts of a run fit together."""

from __future__ import annotations

import logging
from contextlib import suppress

import pyro
import torch
from omegaconf import DictConfig
from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.errors import BadInput, NoEvidence, in_section
from pyro_vae.errors.own_code import own_code
from pyro_vae.marginal import ELBO, Estimator
from pyro_vae.objectives import Objective
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.training.algorithm import TrainingAlgorithm
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def check_parts(
    config: DictConfig,
    vae: VAE,
    data: Dataset,
    trainer: TrainingAlgorithm,
    objective: Objective,
    estimator: Estimator | None,
) -> str | None:
    """Check that trainer, objective and estimator fit the model and the data, without drawing random numbers.

    Args:
        config: of the run; errors name its keys.
        vae: the model and the guide.
        data: of the run.
        trainer: trains the VAE.
        objective: to maximize.
        estimator: will estimate log p(x), if given.

    Returns:
        The trainer's note for the user, if it has one.

    Raises:
        BadInput: if one does not fit.
    """
    with pyro.get_param_store().scope(), fork_rng(data.val.x), eval_mode(vae):
        with in_section("trainer", config.trainer), own_code("the check", trainer=trainer):
            note = trainer.check(vae, objective, *data.batch(torch.arange(min(2, len(data.train)))))
            trainer.check_data(vae, data)
        if estimator is not None:
            # for an autoencoder, the report explains why log p(x) is missing
            with in_section("estimator", config.estimator), suppress(NoEvidence), pyro.validation_enabled(False):
                y = vae.taken_labels(data.test.y)
                estimator.check(*vae.programs(y), data.test.x, y)
        else:
            _warn_if_no_evidence(vae, *data.batch(torch.arange(min(2, len(data.train)))))
    return note


def _warn_if_no_evidence(vae: VAE, x: Tensor, y: Tensor | None) -> None:
    """Warn of a model that can be trained, but whose log p(x) cannot be estimated."""
    try:
        with pyro.validation_enabled(False):
            ELBO(1).check(*vae.programs(y), x, y)
    except NoEvidence:
        pass
    except BadInput as error:
        log.warning("log p(x) of this model cannot be estimated: %s", error)
