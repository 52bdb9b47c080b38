"""Training in a run directory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pyro_vae.data import Dataset, Stored, fingerprint
from pyro_vae.errors import BadInput, in_section
from pyro_vae.errors.own_code import is_own, own_code
from pyro_vae.marginal import Estimator
from pyro_vae.objectives import Objective
from pyro_vae.parallel import collectives
from pyro_vae.programs import random_state
from pyro_vae.programs.notes import NOTE
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs import baseline, checkpoint, misfit
from pyro_vae.runs.build import build_vae, describe_data, instantiate, tell_of_columns
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.checks import check_parts
from pyro_vae.runs.config import check_settings
from pyro_vae.runs.directory import check_run_directory, patience
from pyro_vae.runs.files import Folder
from pyro_vae.runs.locks import alone_in
from pyro_vae.runs.metrics import Metrics
from pyro_vae.runs.restore import as_saved, load_weights, require_loadable, require_same_data
from pyro_vae.runs.resume import saved_settings
from pyro_vae.training.algorithm import TrainingAlgorithm
from pyro_vae.training.device import torch_device
from pyro_vae.training.interrupt import deferred_interrupt
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.state import State
from pyro_vae.vae import VAE
from pyro_vae.vae.contract import require

log = logging.getLogger(__name__)

Tell = Callable[[dict[str, float]], None]


def train(
    config: DictConfig,
    data: Dataset,
    run_dir: Path,
    *,
    resume: bool = False,
    estimator: Estimator | None = None,
    tell: Tell = lambda row: None,
    on_start: Callable[[VAE], None] = lambda vae: None,
) -> tuple[VAE, State]:
    """Train the VAE of a configuration, saving a checkpoint every epoch.

    Args:
        config: as composed from conf/train.yaml.
        data: the data; moved to the trainer's device.
        run_dir: receives checkpoints/, metrics.csv and TensorBoard events.
        resume: continue from the last checkpoint in `run_dir`.
        estimator: will estimate log p(x) of the test set after training; rejected now if it does not fit the model.
            None: the validation ELBO is compared with the baseline.
        tell: called with each epoch's row of metrics once it is saved; what it raises ends the training.
        on_start: called with the VAE once the configuration and the data have passed all checks.

    Returns:
        The VAE of the epoch with the best validation ELBO (without a validation set, of the last epoch), and the
        state of the training.

    Raises:
        BadInput: if the configuration cannot be used, `run_dir` already holds a run, or its run has other data.
        FailedRun: if the loss is NaN or infinite.
    """
    check_settings(config)
    with _claimed(run_dir, resume):
        run = Run.open(config, data, run_dir, resume=resume, estimator=estimator)
        on_start(run.vae)
        run.fit(tell)
        run.restore_best()
    if estimator is None:
        baseline.warn_of_elbo(run.vae, data)
    return run.vae, run.state


@contextmanager
def _claimed(run_dir: Path, resume: bool) -> Iterator[None]:
    """Keep other processes from writing to `run_dir`.

    Raises:
        BadInput: if another process does, or `run_dir` holds a run, or with `resume` none.
    """
    if collectives.rank() > 0:  # rank 0 writes
        yield
        return
    with alone_in(run_dir, "wait for it to end, or give another directory", patience()):
        check_run_directory(run_dir, resume)
        yield


@dataclass
class Run:
    """A VAE in training, and the run directory that stores it. `Run.open` builds one from a configuration.

    Attributes:
        config: as composed from conf/train.yaml.
        data: the data, on the trainer's device.
        run_dir: the directory.
        checkpoints: the checkpoints in it.
        vae: the model and the guide.
        trainer: trains them.
        objective: maximized by the trainer.
        optim: steps the parameters.
        state: how far training has come.
    """

    config: DictConfig
    data: Dataset
    run_dir: Path
    checkpoints: Checkpoints
    vae: VAE
    trainer: TrainingAlgorithm
    objective: Objective
    optim: JointOptim
    state: State = field(default_factory=State)

    @classmethod
    def open(
        cls,
        config: DictConfig,
        data: Dataset,
        run_dir: Path,
        *,
        resume: bool = False,
        estimator: Estimator | None = None,
    ) -> Run:
        """Build a run and check it; with `resume`, continue from the last checkpoint in `run_dir`, if there is one.

        Arguments as for `train`.

        Raises:
            BadInput: if the configuration does not suit the data, or the checkpoint has other data.
        """
        set_seed(config.seed)
        trainer: TrainingAlgorithm = instantiate(config, "trainer")
        require("trainer", trainer, TrainingAlgorithm)
        with in_section("trainer", config.trainer):
            device = torch_device(trainer.device)
        data.to(device)
        describe_data(config, data)
        checkpoints = Checkpoints(run_dir)
        saved = checkpoints.load_last(device) if resume and checkpoints.exist() else None
        with as_saved(saved, checkpoints.last, config.get("trust")):
            vae = build_vae(config, data.data_shape, data.num_classes, data.missing, data.covariates)
        objective, optim = instantiate(config, "objective"), _optim(config, trainer.clip_norm)
        run = cls(config, data, run_dir, checkpoints, vae.to(device), trainer, objective, optim)
        run.initialize()
        if note := check_parts(config, run.vae, data, trainer, objective, estimator):
            log.log(NOTE, note)
        if saved is not None:
            run.resume(saved)
        else:
            tell_of_columns(config, data)
        return run

    @cached_property
    def about_data(self) -> dict[str, Any]:
        """What checkpoints keep of the data: shape, names, covariates, fingerprint, whether entries are missing."""
        data = self.data
        about: dict[str, Any] = {
            "data_shape": list(data.data_shape),
            "num_classes": data.num_classes,
            "data": fingerprint(data),
        }
        if data.covariates:
            about["covariates"] = data.covariates
        about |= {name: list(values) for name in ("classes", "features") if (values := getattr(data, name))}
        return {**about, "missing": True} if data.missing else about

    def initialize(self) -> None:
        """Give the VAE starting values from the training data, the same in all processes.

        Raises:
            BadInput: if the likelihood rejects the data.
        """
        vae, data = self.vae, self.data
        if isinstance(data.train, Stored):
            with in_section("data", self.config.data), own_code("the check of the data", likelihood=vae.likelihood):
                misfit.read_through(data.train, data, vae)
        with own_code("the check of the data", likelihood=vae.likelihood):
            misfit.warn_of_misfit(vae, data.samples())
        for split in (data.train, *data.held_out.values()):
            vae.taken_labels(split.y)
        misfit.warn_of_empty_classes(vae, data.train.y)
        misfit.warn_of_empty_rows(vae, data)
        start = data.train.sample().x
        with own_code("warning_of_scales", likelihood=vae.likelihood):
            misfit.warn_of_scales(vae, start)
        vae.initialize(start, data.train.y)
        for value in vae.state_dict().values():
            collectives.from_rank_0(value)
        if collectives.rank() > 0:  # each process draws other noise
            set_seed(self.config.seed, collectives.rank())

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            BadInput: if it has other data, or its weights do not fit the VAE.
        """
        last = self.checkpoints.last
        require_same_data(self.data, self.about_data["data"], saved, self.run_dir)
        load_weights(self.vae, saved, last)
        self.optim.set_state(saved["optim"])
        if len(saved["rng"]) == collectives.world_size():
            random_state.set_rng_state(saved["rng"][collectives.rank()])
        else:
            log.warning("this run had %d processes before: its random numbers change", len(saved["rng"]))
        self.state = State.of(saved["state"], last)
        if self.state.epoch:
            try:
                checkpoint.load(self.checkpoints.best)
            except BadInput as error:  # better now than after training
                log.warning("%s: the best epoch is lost, the next one takes its place", error)
                self.state.best_elbo = -math.inf
        log.info("resumed after epoch %d", self.state.epoch)

    def save(self, is_best: bool = False) -> None:
        """Write a checkpoint; with `is_best`, also as the best epoch's."""
        content = {
            "config": saved_settings(self.config),
            **self.about_data,
            "vae": self.vae.state_dict(),
            "optim": self.optim.get_state(),
            "rng": collectives.gather(random_state.get_rng_state()),
            "state": asdict(self.state),
        }
        if collectives.rank() == 0:
            self.checkpoints.save(content, is_best)

    def fit(self, tell: Tell = lambda row: None) -> None:
        """Train to the end, with a checkpoint and a row of metrics after every epoch.

        Args:
            tell: called with each epoch's row of metrics once it is saved; what it raises ends the training.

        Raises:
            BadInput: if the data are too few for the processes, or cannot be read.
            FailedRun: if the loss is NaN or infinite.
        """
        writes = collectives.rank() == 0
        for path in (self.run_dir, self.checkpoints.folder) if writes else ():
            with Folder(path) as folder:
                folder.remove_temporaries()
        if not self.checkpoints.exist():
            self.save()  # an interrupted first epoch can be resumed, too
            if writes:
                require_loadable(self.vae, self.checkpoints.last)
        writing = Metrics(self.run_dir, self.state.epoch) if writes else nullcontext()
        with deferred_interrupt() as check_interrupt, writing as metrics:

            def on_epoch(row: dict[str, float], is_best: bool) -> None:
                if metrics is not None:
                    metrics.write(row)
                self.save(is_best)
                tell(row)

            with in_section("trainer", self.config.trainer), in_section("data", self.config.data):
                self.trainer.fit(
                    self.vae, self.data, self.objective, self.optim, self.state, on_epoch,
                    on_start=self.save, on_step=check_interrupt,
                )  # fmt: skip
        if is_own(self.trainer) and writes and not self.checkpoints.best.is_file():
            raise BadInput(
                f"trainer={type(self.trainer).__name__}: fit never called on_epoch(row, True), the best epoch"
            )

    def restore_best(self) -> None:
        """Load the weights of the best epoch."""
        collectives.from_rank_0(None)  # wait until rank 0 has written them
        load_weights(self.vae, checkpoint.load(self.checkpoints.best, self.data.device), self.checkpoints.best)
        self.vae.zero_grad()  # drop the last step's gradients
        self.vae.eval()


def _optim(config: DictConfig, clip_norm: float | None) -> JointOptim:
    # checkpoints store the settings, and accept only plain containers: hence _convert_
    optimizer, scheduler = (instantiate(config, group, _convert_="all") for group in ("optimizer", "scheduler"))
    with in_section("trainer", config.trainer), in_section("optimizer", config.optimizer):
        return JointOptim(optimizer, scheduler, clip_norm)
