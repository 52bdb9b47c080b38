"""Protects run directories from being overwritten or used by two commands at once. Imports no torch."""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pyro_vae.commands import logs
from pyro_vae.commands.terminal import EXIT_BAD_INPUT, fail
from pyro_vae.errors import BadInput
from pyro_vae.parallel import environment
from pyro_vae.runs import locks
from pyro_vae.runs.directory import check_run_directory, patience
from pyro_vae.runs.files import given, refuse_link

_made: list[Path] = []
"""Directories that this command has created, the run's first."""


def claim(run_dir: Path, place: str = "hydra.run.dir", shared: bool = False) -> None:
    """Keep other commands from writing to a run directory until this one ends.

    Raises:
        BadInput: if another command is writing there.
    """
    missing = list(takewhile(lambda folder: not folder.exists(), (run_dir, *run_dir.parents)))
    advice = f"wait for it to end, or give another {place}=DIR"
    locks.of_command.append(locks.Claim(run_dir, advice, patience(), shared))
    _made[:] = missing


def release() -> None:
    """Release all claims."""
    _made.clear()
    while locks.of_command:
        locks.of_command.pop().release()


def remove_if_empty() -> None:
    """Remove the directory created by a command with bad input, if it holds only its configuration and log."""
    if not _made or not all(claim.is_alone() for claim in locks.of_command):
        return
    run_dir = _made[0]
    logs.close()
    ours = {run_dir / locks.NAME, run_dir / "multirun.yaml", *run_dir.glob("*.log"), *run_dir.glob(".hydra/*.yaml")}
    found = {path for path in run_dir.rglob("*") if not path.is_dir()}
    if found <= ours:
        for path in found:
            path.unlink()
        for folder in (run_dir / ".hydra", *_made):
            with suppress(OSError):  # missing, or not empty
                folder.rmdir()


class GuardRunDirectory(Callback):
    """Claims and checks the run directory before Hydra writes there.

    Args:
        shared: whether several commands may write there at once, as searches of one study do.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Guard the run directory; Hydra calls this before creating it."""
        self._guard(config.hydra.run.dir, OmegaConf.select(config, "resume") is not None, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Guard the directories of a sweep; Hydra calls this before creating them."""
        self._guard(config.hydra.sweep.dir, False, "hydra.sweep.dir")

    def _guard(self, directory: str, resume: bool, place: str) -> None:
        if environment.rank() > 0:
            return
        try:
            run_dir = given(directory).absolute()  # hydra.job.chdir may change the working directory
            claim(run_dir, place, self.shared)
            if not environment.restarted():  # a restarted command continues its own run
                jobs = sorted(run_dir.glob("*")) if place == "hydra.sweep.dir" else [run_dir]
                for job in jobs:
                    if place == "hydra.sweep.dir" and job.name.isdigit():
                        refuse_link(job)
                    check_run_directory(job, resume, place)
        except (BadInput, OSError) as error:
            remove_if_empty()
            reason = str(error)
            if isinstance(error, OSError):
                kind = "is a file" if Path(directory).is_file() else f"cannot be used ({error.strerror})"
                reason = f"{'resume' if resume else place}={directory} {kind}: give a directory"
            # Hydra turns exceptions of callbacks into warnings, but not SystemExit
            fail(f"error: {reason}", EXIT_BAD_INPUT)
