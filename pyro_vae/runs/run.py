"""Training in a run directory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from pyro_vae.build import build_vae
from pyro_vae.data import Dataset, Split, Stored, fingerprint
from pyro_vae.em import ExactEM
from pyro_vae.errors import (
    BadInput,
    NoEvidence,
    in_callers_names,
)
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.marginal import Estimator
from pyro_vae.parallel import collectives
from pyro_vae.programs import random_state
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.progress import progress
from pyro_vae.programs.random_state import fork_rng, set_seed
from pyro_vae.runs import baseline, checkpoint
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import check_settings
from pyro_vae.runs.directory import check_run_directory, patience
from pyro_vae.runs.files import Folder
from pyro_vae.runs.locks import alone_in
from pyro_vae.runs.metrics import Metrics
from pyro_vae.runs.restore import as_saved, load_weights, require_same_data
from pyro_vae.runs.resume import saved_settings
from pyro_vae.training.interrupt import deferred_interrupt
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer, torch_device
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def train(
    config: DictConfig, data: Dataset, run_dir: Path, *, resume: bool = False, estimator: Estimator | None = None
) -> tuple[VAE, State]:
    """Train the VAE of a configuration, saving a checkpoint every epoch.

    Args:
        config: as composed from conf/train.yaml.
        data: the data; moved to the trainer's device.
        run_dir: gets checkpoints/, metrics.csv and TensorBoard events.
        resume: go on from `run_dir`'s last checkpoint.
        estimator: of the test set's log p(x) when all is done: refused now, if it is not for this model. None: the
            validation ELBO is compared with the baseline.

    Returns:
        The VAE of the epoch with the best validation ELBO, without a validation set the last, and how far it came.

    Raises:
        BadInput: if the configuration cannot be used, or `run_dir` holds a run already, or one of other data.
        FailedRun: if the loss is NaN or infinite.
    """
    check_settings(config)
    if collectives.rank() > 0:
        return _train(config, data, run_dir, resume, estimator)
    with alone_in(run_dir, "wait for it to end, or give another directory", patience()):
        check_run_directory(run_dir, resume)
        return _train(config, data, run_dir, resume, estimator)


def _train(
    config: DictConfig, data: Dataset, run_dir: Path, resume: bool, estimator: Estimator | None
) -> tuple[VAE, State]:
    """`train`, once no other process can write to `run_dir`."""
    set_seed(config.seed)
    trainer: Trainer | ExactEM = instantiate(config.trainer)
    device = torch_device(trainer.device)
    data.to(device)
    num_classes = data.num_classes
    checkpoints = Checkpoints(run_dir)
    saved = checkpoints.load_last(device) if resume and checkpoints.exist() else None
    with as_saved(saved, checkpoints.last, config.get("trust")):
        vae = build_vae(config, data.data_shape, num_classes)
    vae = vae.to(device)
    objective = instantiate(config.objective)
    # _convert_: their settings get into checkpoints, which hold plain containers only
    optimizer, scheduler = (instantiate(config[axis], _convert_="all") for axis in ("optimizer", "scheduler"))
    optim = JointOptim(optimizer, scheduler, trainer.clip_norm)
    if isinstance(data.train, Stored):
        read_through(data.train, data, vae)
    warn_of_misfit(vae, data.samples())
    warn_of_empty_classes(vae, data.train.y)
    start = data.train.sample().x
    if isinstance(vae.likelihood, Likelihood) and (warning := vae.likelihood.warning_of_scales(start)):
        log.warning(in_callers_names(warning))
    vae.initialize(start)
    _check(trainer, vae, objective, estimator, data)

    for value in vae.state_dict().values():
        collectives.from_rank_0(value)
    if collectives.rank() > 0:  # noise of its own
        set_seed(config.seed, collectives.rank())
    state, identity = State(), fingerprint(data)
    if saved is not None:
        require_same_data(data, identity, saved, run_dir)
        load_weights(vae, saved, checkpoints.last)
        optim.set_state(saved["optim"])
        if len(saved["rng"]) == collectives.world_size():
            random_state.set_rng_state(saved["rng"][collectives.rank()])
        else:
            log.warning("this run had %d processes before: its noise is another now", len(saved["rng"]))
        state = State.of(saved["state"], checkpoints.last)
        if state.epoch:
            try:
                checkpoint.load(checkpoints.best)
            except BadInput as error:  # found now, not when all is done
                log.warning("%s: the best epoch is lost, the next takes its place", error)
                state.best_elbo = -math.inf
        log.info("resumed after epoch %d", state.epoch)

    def save(is_best: bool = False) -> None:
        content = {
            "config": saved_settings(config),
            "data_shape": list(data.data_shape),
            "num_classes": num_classes,
            "data": identity,
            "vae": vae.state_dict(),
            "optim": optim.get_state(),
            "rng": collectives.gather(random_state.get_rng_state()),
            "state": asdict(state),
        }
        if collectives.rank() == 0:
            checkpoints.save(content, is_best)

    if collectives.rank() == 0:
        for path in (run_dir, checkpoints.folder):
            with Folder(path) as folder:
                folder.remove_temporaries()
    if not checkpoints.exist():
        save()  # so that an interrupted first epoch can be resumed as well
    writing = Metrics(run_dir, state.epoch) if collectives.rank() == 0 else nullcontext()
    with deferred_interrupt() as check_interrupt, writing as metrics:

        def on_epoch(row: dict[str, float], is_best: bool) -> None:
            if metrics is not None:
                metrics.write(row)
            save(is_best)

        trainer.fit(vae, data, objective, optim, state, on_epoch, on_start=save, on_step=check_interrupt)
    collectives.from_rank_0(None)  # which has written it by then
    load_weights(vae, checkpoint.load(checkpoints.best, device), checkpoints.best)
    vae.zero_grad()  # the last step's gradients are not needed any more
    vae.eval()
    if estimator is None and (warning := baseline.elbo_below(vae, data)):
        log.warning(in_callers_names(warning))
    return vae, state


def _check(trainer: Trainer | ExactEM, vae: VAE, objective: Any, estimator: Estimator | None, data: Dataset) -> None:
    """Refuse what does not go together before the work, not after it."""
    with pyro.get_param_store().scope(), fork_rng(data.val.x), eval_mode(vae):
        if note := trainer.check(vae, objective, *data.batch(torch.arange(min(2, len(data.train))))):
            log.log(NOTE, note)
        if isinstance(trainer, ExactEM):
            trainer.check_data(vae, data)
        if estimator is not None:
            with suppress(NoEvidence), pyro.validation_enabled(False):  # the report says why
                estimator.check(vae.model, vae.guide, data.test.x, data.test.y)


def warn_of_misfit(vae: VAE, splits: Sequence[Split]) -> None:
    """Say so where log p(x) of these data under this likelihood is not what it seems.

    Raises:
        BadInput: if the likelihood cannot take the data at all.
    """
    for warning in dict.fromkeys(vae.likelihood.check(split.x) for split in splits):
        if warning:
            log.warning(in_callers_names(warning))


def warn_of_empty_classes(vae: VAE, y: Tensor | None) -> None:
    """Say so where a conditional model has classes to which none of the training labels y `[N]` belongs."""
    if vae.num_classes is not None and y is not None:
        empty = (torch.bincount(y, minlength=vae.num_classes) == 0).nonzero().flatten().tolist()
        if empty:
            log.warning(
                "%d of the %d classes have no training data, class %d is the first of them, and nothing is "
                "learnt of them: number the labels 0, 1, 2 and so on",
                len(empty), vae.num_classes, empty[0],
            )  # fmt: skip


def read_through(train: Stored, data: Dataset, vae: VAE) -> None:
    """Read training data once, so that what cannot be used is refused before the work, not within it.

    Raises:
        BadInput: if some is broken, or the data's binarization or the likelihood cannot take it.
    """
    with progress("reading data", len(train), "datapoint") as tick:
        for x in train.in_order():
            data.require(x)
            if data.binarize == "none" and not data.dequantize:  # else the sample counts, as drawn or rounded
                vae.likelihood.check(x)
            tick(len(x))
