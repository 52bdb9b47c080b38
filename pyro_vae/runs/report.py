"""Results of a training run: results.json, plots/ and a table on screen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pyro_vae.data import Dataset
from pyro_vae.errors import NoEvidence
from pyro_vae.marginal import Estimator, Importance
from pyro_vae.marginal.summary import table
from pyro_vae.parallel import collectives
from pyro_vae.runs import baseline, metrics
from pyro_vae.runs.classification import classification
from pyro_vae.runs.estimation import estimate, reconstruction_error, warn_of_doubts
from pyro_vae.runs.figures import draw_run, drawing
from pyro_vae.runs.results import write_json
from pyro_vae.runs.resume import saved_settings
from pyro_vae.training.state import State
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

CUSTOMARY_K = 1000
"""Samples of the importance sampling that papers report."""


def report(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, state: State, run_dir: Path) -> None:
    """Estimate log p(x) of the test set. Print tables; write results.json and the figures in plots/.

    Each estimate is written as soon as it is made, in case the next one is interrupted.

    Unless `config.second_estimator` is false, importance sampling from the guide, which papers report, stands beside
    another estimator. The results of an autoencoder say why there is no log p(x).
    """
    of_training = {"train_seconds": state.seconds, "skipped_steps": state.skipped}
    results: dict[str, Any] = {}

    def write() -> None:
        write_json(run_dir / "results.json", {**results, **of_training, "config": saved_settings(config)})

    independent = baseline.fitted(vae, data)
    estimators = {"test": estimator}
    warn: Callable[[], None]
    if config.get("second_estimator", True) and estimator.estimates and estimator.name != Importance.name:
        estimators["importance"] = Importance(CUSTOMARY_K)
    try:
        for name, each in estimators.items():
            evidence, summary = estimate(vae, data, data.test, each, config.seed, independent)
            results[name] = summary
            if name == "test":
                warn = partial(warn_of_doubts, evidence, summary, each, independent)
            if collectives.rank() == 0:
                log.info(table(summary, "test", "" if name == "test" else "samples from the guide, as in papers"))
                write()
    except NoEvidence as reason:
        results["test"] = {"elbo": None, "log_px": None, "refused": str(reason), "num_data": len(data.test)}
        warn = partial(log.warning, str(reason))
    if collectives.rank() > 0:
        return
    error = results["reconstruction_error"] = reconstruction_error(vae, data.test)
    if (found := classification(vae, data, config)) is not None:
        results["classification"] = found
    write()
    log.info("reconstruction error of the test set: %.5f (mean squared, per dimension)", error)
    if config.get("plots", True):
        with drawing(run_dir / "plots"):
            draw_run(vae, data.test, metrics.read(run_dir), run_dir / "plots", data.classes)
    warn()
