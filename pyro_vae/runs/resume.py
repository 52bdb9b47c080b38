"""The configuration of a run, saved and resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pyro_vae.errors import (
    BadInput,
)
from pyro_vae.programs.notes import NOTE
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import check_key
from pyro_vae.runs.plain import read_yaml, with_references
from pyro_vae.runs.renamed import renamed
from pyro_vae.runs.targets import OF_THE_DATA, OF_THE_MODEL, OF_TRAINING, as_names, check_sections

log = logging.getLogger(__name__)

OF_REPORT = ("second_estimator", "plots")
"""Keys, true or false, about what follows the training. Runs of earlier versions do not have them."""


def make_paths_absolute(config: DictConfig) -> None:
    """So that the run can be evaluated and resumed from any folder."""
    for key in ("path", "root"):
        if config.data.get(key) is not None:
            config.data[key] = str(Path(os.path.expanduser(str(config.data[key]))).absolute())


def resumed_config(config: DictConfig, overrides: Sequence[str], run_dir: Path) -> DictConfig:
    """The configuration in `run_dir`'s last checkpoint, with the trainer's and estimator's keys overridden.

    Of a run that was cut off before its first checkpoint it is the one that Hydra has written; it starts from scratch.
    A run with classes of your own needs `trust=[my_package.MyGuide]`, as in `load`.

    Raises:
        BadInput: if `overrides` name another key: the model and its data are what they are.
    """
    checkpoints = Checkpoints(run_dir)
    if checkpoints.exist():
        path = checkpoints.last
        content = checkpoints.load_last()["config"]
    else:
        path = run_dir / ".hydra" / "config.yaml"
        content = renamed(with_references(read_yaml(path)))
        log.log(NOTE, "%s was cut off before its first checkpoint: it starts from scratch", run_dir)
    check_sections(content, (*OF_THE_MODEL, *OF_TRAINING, *OF_THE_DATA), path, config.get("trust"))
    saved = OmegaConf.create({**content, "trust": as_names(config.get("trust"))})
    make_paths_absolute(saved)
    for override in sorted(overrides, key=lambda override: "." in override.partition("=")[0]):  # options, then keys
        key = override.partition("=")[0].lstrip("+")
        if key in ("resume", "trust"):
            continue
        if key.partition(".")[0] not in ("trainer", "estimator", *OF_REPORT):
            raise BadInput(
                f"{override}: a resumed run keeps its configuration, but for trainer.*, estimator.*, "
                f"{' and '.join(OF_REPORT)}; leave it out, or start a new run"
            )
        epochs = saved.scheduler.get("T_max")
        if key == "trainer.max_epochs" and epochs not in (None, config.trainer.max_epochs):
            raise BadInput(
                f"{override}: this run's scheduler falls to its end over {epochs} epochs, which cannot be changed half "
                "way; start a new run, with scheduler=constant if you want to go on later"
            )
        OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False)
        if key in OF_REPORT:
            continue
        group = key.partition(".")[0]
        check_key(key, saved[group].get("_target_"), content[group])
    return saved


def saved_settings(config: DictConfig) -> dict[str, Any]:
    """What is saved of a configuration, as plain containers: everything but `trust`."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "trust"}


def is_run_of(config: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds a run, which then is one of this very configuration.

    Raises:
        BadInput: if it is of another.
    """
    checkpoints = Checkpoints(run_dir)
    if not checkpoints.exist():
        return False
    if checkpoints.load_last()["config"] != saved_settings(config):
        raise BadInput(f"{run_dir} already holds a run of other options: another hydra.run.dir=DIR starts a new one")
    return True
