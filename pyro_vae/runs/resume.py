"""The configuration of a saved run, and what resuming may change in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pyro_vae.errors import BadInput
from pyro_vae.programs.notes import NOTE
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import check_key
from pyro_vae.runs.plain import read_yaml, with_references
from pyro_vae.runs.renamed import renamed
from pyro_vae.runs.targets import OF_THE_DATA, OF_THE_MODEL, OF_TRAINING, as_names, check_sections

log = logging.getLogger(__name__)

OF_REPORT = ("second_estimator", "plots")
"""Keys, true or false, about what follows training. Configurations of earlier versions do not have them."""

PLACES = ("path", "root", "val_path", "test_path")
"""Keys of `data` that name a file or folder, which may have moved."""


def make_paths_absolute(config: DictConfig) -> None:
    """Make the paths of the data absolute, so that the run can be evaluated and resumed from any folder."""
    for key in PLACES:
        if config.data.get(key) is not None:
            config.data[key] = str(Path(os.path.expanduser(str(config.data[key]))).absolute())


def resumed_config(config: DictConfig, overrides: Sequence[str], run_dir: Path) -> DictConfig:
    """Take the configuration of a saved run, with `overrides` of its trainer, estimator, report and data's place.

    A run that was cut off before its first checkpoint starts again from the configuration that Hydra has written.
    A run with your own classes needs `trust=[my_package.MyGuide]`, as in `load`.

    Args:
        config: the configuration composed from conf/ with the overrides.
        overrides: as given to the command.
        run_dir: the run.

    Raises:
        BadInput: if an override changes the model, its data or its optimization, or the data were in memory.
    """
    content = _saved_config(run_dir, config.get("trust"))
    saved = OmegaConf.create({**content, "trust": as_names(config.get("trust"))})
    if "path" in saved.data and saved.data.path is None:
        raise BadInput(
            f"resume={run_dir} was trained by fit() on an array in memory and cannot be resumed: call fit again with "
            "more max_epochs, or train on a file with data=array data.path=FILE.npy"
        )
    for override in sorted(overrides, key=lambda override: "." in override.partition("=")[0]):  # options, then keys
        key = override.partition("=")[0].lstrip("+")
        if key not in ("resume", "trust"):
            _override(saved, key, override, config, content, run_dir)
    make_paths_absolute(saved)
    return saved


def _saved_config(run_dir: Path, trust: Collection[str] | None) -> dict[str, Any]:
    """Read the configuration in the last checkpoint, or in .hydra/ if there is none yet, and check it."""
    checkpoints = Checkpoints(run_dir)
    if checkpoints.exist():
        path = checkpoints.last
        content = checkpoints.load_last()["config"]
    else:
        path = run_dir / ".hydra" / "config.yaml"
        content = renamed(with_references(read_yaml(path)))
        log.log(NOTE, "%s was cut off before its first checkpoint: it starts from scratch", run_dir)
    check_sections(content, (*OF_THE_MODEL, *OF_TRAINING, *OF_THE_DATA), path, trust)
    return dict(content)


def move_data(data: DictConfig, key: str, place: str, given: str, run_dir: Path) -> None:
    """Set the place of a run's data, one of `PLACES`, as the override `given` asks.

    Raises:
        BadInput: if its data have no such place.
    """
    if key not in data:
        raise BadInput(f"{given}: the data of {run_dir} have no {key}, leave it out")
    data[key] = place


def _override(
    saved: DictConfig, key: str, override: str, config: DictConfig, content: dict[str, Any], run_dir: Path
) -> None:
    """Set `key` of the saved configuration to its value in `config`.

    Raises:
        BadInput: if a resumed run cannot change it.
    """
    group, _, name = key.partition(".")
    if group == "data" and name in PLACES:
        move_data(saved.data, name, config.data[name], override.lstrip("+"), run_dir)
        return
    if group not in ("trainer", "estimator", *OF_REPORT):
        raise BadInput(
            f"{override.lstrip('+')}: a resumed run keeps its configuration, except for trainer.*, estimator.*, "
            f"{', '.join(OF_REPORT)} and the place of its data; leave it out, or start a new run"
        )
    epochs = saved.scheduler.get("T_max")
    if key == "trainer.max_epochs" and epochs not in (None, config.trainer.max_epochs):
        raise BadInput(
            f"{override}: the scheduler of this run decays over {epochs} epochs, which cannot be changed halfway; "
            "start a new run, with scheduler=constant to be able to extend it"
        )
    OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False)
    if key not in OF_REPORT:
        check_key(key, saved[group].get("_target_"), content[group])


def saved_settings(config: DictConfig) -> dict[str, Any]:
    """Convert a configuration to plain containers for a checkpoint, without `trust`."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "trust"}


def _as_given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what the run itself writes into them: `build.describe_data`."""
    likelihood = {k: v for k, v in settings["likelihood"].items() if k not in ("columns", "standardize")}
    settings = {"missingness": None, **settings}  # not in runs of earlier versions
    return {**settings, "likelihood": likelihood, "data": {k: v for k, v in settings["data"].items() if k != "columns"}}


def is_run_of(config: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds a run of this configuration.

    Raises:
        BadInput: if it holds a run of another configuration.
    """
    checkpoints = Checkpoints(run_dir)
    if not checkpoints.exist():
        return False
    if _as_given(checkpoints.load_last()["config"]) != _as_given(saved_settings(config)):
        raise BadInput(
            f"{run_dir} already holds a run with other options: start a new one with another hydra.run.dir=DIR"
        )
    return True
