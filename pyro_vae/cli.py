"""The shell of the commands: Hydra's, with errors a user can read. Imports no torch."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pyro_vae import launched
from pyro_vae.config import CONFIG_DIR, compose, explain, option
from pyro_vae.errors import BadInput, FailedRun, one_line

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def run(task: Callable[[DictConfig], None], config_name: str, usage: str) -> None:
    """Run `task` on the composed configuration, or print the help, and exit with a status.

    0: success; 1: the run failed; 2: bad input, one line on stderr; 130: Ctrl-C. `HYDRA_FULL_ERROR=1` brings
    tracebacks back.
    """
    failed: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                error.__dict__["of_sweep"] = True  # comes along from another process
                raise  # Hydra goes on with the other jobs, then names those that failed
            failed.append(error)

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    logging.raiseExceptions = False  # a log file on a full disk is no reason for tracebacks
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors instead of printing their tracebacks
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_text(config_name, usage))
            return
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(job)()
        if failed:  # of a single run: past Hydra, which would add a line of its own
            raise failed[0]
    except KeyboardInterrupt as interrupt:
        fail(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}", EXIT_INTERRUPTED)
    except Exception as error:
        message = str(error) if isinstance(error, FailedRun) else explain(error)
        if wants_traceback or message is None:
            traceback.print_exc()
        bad_input = message is not None and not isinstance(error, FailedRun) and not hasattr(error, "of_sweep")
        fail(f"error: {message or one_line(error)}", EXIT_BAD_INPUT if bad_input else EXIT_FAILED)
    finally:
        _release()


def help_text(config_name: str, usage: str) -> str:
    """Usage, options and defaults; Hydra's own --help takes twice the time."""
    config = compose([], config_name)
    options = []
    for group in sorted(d for d in CONFIG_DIR.iterdir() if d.name in config):
        options.append(f"  {group.name}={'|'.join(sorted(f.stem for f in group.glob('*.yaml')))}")
    for added in ("experiment", "launcher") if config_name == "train" else ():
        options.append(f"  +{added}={'|'.join(sorted(f.stem for f in CONFIG_DIR.glob(f'{added}/*.yaml')))}")
    return "\n".join(
        [
            usage.strip(),
            "\nOptions:",
            *options,
            "\nDefaults, to be changed by KEY=VALUE, as in trainer.max_epochs=200:\n",
            OmegaConf.to_yaml(config),
            "Hydra's flags: --hydra-help; --cfg job shows the composed configuration; -m sweeps over values a,b,c.",
        ]
    )


def fail(line: str, status: int) -> None:
    """Print `line` on stderr and exit."""
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)


def resumed(argv: list[str]) -> list[str]:
    """Command-line arguments with the run directory of `resume=DIR`, if given, as Hydra's own."""
    for argument in reversed(argv):
        key, _, directory = argument.partition("=")
        if key.lstrip("+") == "resume" and directory not in ("", "null"):
            # ++: of the run's own trainer and estimator, which may have other keys than the default ones
            own = [re.sub(r"^\+*(?=(trainer|estimator)\.)", "++", argument) for argument in argv]
            # the directory's .hydra/ stays: it records how the run was started
            return [*own, f"hydra.run.dir={directory}", "hydra.output_subdir=null"]
    return argv


def one_of_several(argv: list[str]) -> list[str]:
    """Command-line arguments of a process that torchrun has started: one run directory for all, written by rank 0."""
    if not launched.is_one_of_several():
        return argv
    from pyro_vae.distributed import agreed_time  # imports torch

    os.environ["PYRO_VAE_TIME"] = agreed_time("%Y-%m-%d_%H-%M-%S")
    return argv if launched.rank() == 0 else [*argv, "hydra.output_subdir=null", "hydra/job_logging=disabled"]


def check_run_directory(run_dir: Path, resume: bool, place: str = "hydra.run.dir") -> None:
    """Refuse to overwrite a run, or to go on with none.

    Raises:
        BadInput: in either case.
    """
    saved = [name for name in ("last.pt", "previous.pt") if (run_dir / "checkpoints" / name).is_file()]
    # Hydra writes overrides.yaml after config.yaml: with it, that is whole
    if resume and not saved and not (run_dir / ".hydra" / "overrides.yaml").is_file():
        raise BadInput(f"resume={run_dir} is no run: it has no checkpoints/last.pt")
    if not resume and saved:
        raise BadInput(
            f"{run_dir} already holds a run: {option('resume', run_dir)} goes on with it, another {place}=DIR starts "
            "anew"
        )


def claim(run_dir: Path) -> None:
    """Keep other processes from starting a run there, until this one ends having saved nothing."""
    folder = run_dir / "checkpoints"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        fail(
            f"error: another run has just started in {run_dir}, or was cut off there: give another hydra.run.dir=DIR, "
            f"or go on with {option('resume', run_dir)}",
            EXIT_BAD_INPUT,
        )
    except OSError:  # Hydra, which makes the directory next, says why it cannot
        return
    _claimed.append(folder)


_claimed: list[Path] = []


def _release() -> None:
    while _claimed:
        with suppress(OSError):  # what has been saved there stays
            _claimed.pop().rmdir()


class GuardRunDirectory(Callback):
    """`check_run_directory` and `claim` before Hydra writes its files there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it makes the run directory."""
        run_dir, resume = Path(config.hydra.run.dir), config.resume is not None
        self._check([run_dir], resume)
        if not resume and self._looks():
            claim(run_dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called by Hydra before it makes the directories of a sweep."""
        jobs = [d for d in Path(config.hydra.sweep.dir).glob("*") if d.is_dir()]
        self._check(jobs, resume=False, place="hydra.sweep.dir")

    def _looks(self) -> bool:
        """Whether a run that is there is another than this one."""
        return not launched.restarted() and launched.rank() == 0

    def _check(self, run_dirs: list[Path], resume: bool, place: str = "hydra.run.dir") -> None:
        if not self._looks():
            return
        try:
            for run_dir in run_dirs:
                check_run_directory(run_dir, resume, place)
        except BadInput as error:
            # Hydra turns a callback's exceptions into warnings, but not this
            fail(f"error: {error}", EXIT_BAD_INPUT)
