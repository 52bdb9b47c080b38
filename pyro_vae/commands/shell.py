"""Runs the commands with Hydra, and prints readable errors. Imports no torch."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pyro_vae.commands import guard, logs, terminal
from pyro_vae.commands.terminal import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from pyro_vae.errors import FailedRun, one_line
from pyro_vae.errors.memory import out_of_memory
from pyro_vae.parallel import environment
from pyro_vae.runs.config import CONFIG_DIR, check_options, check_settings, compose, explain, options_of

PATHS = r"hydra\.run\.dir|hydra\.sweep\.dir|resume|run|study|data\.path|data\.root|held_out\.path|held_out\.root"
IN_LIST = r"(?<=[\[,])~[^/,\]]*(?=/)"
HOME = rf"""^(\+*(?:{PATHS})=['"]?)(~[^/\\'"]*)(?=[/\\'"]|$)"""


def run(task: Callable[[DictConfig], None], config_name: str, usage: str) -> None:
    """Run `task` on the composed configuration, or print the help.

    Exits with status 0 on success, 1 if the run failed, 2 on bad input, with one line on stderr, or 130 on Ctrl-C.
    `HYDRA_FULL_ERROR=1` shows tracebacks.
    """
    failed: list[Exception] = []

    def job(config: DictConfig) -> None:
        terminal.lose_no_line()  # jobs may run in other processes
        try:
            check_settings(config, config_name)
            task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                logs.to_logs_only(f"error: {_message(error) or one_line(error)}")
                error.__dict__["of_sweep"] = True  # attributes survive pickling by job processes
                raise  # Hydra runs the other jobs, then lists those that failed
            failed.append(error)

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    terminal.lose_no_line()
    logging.raiseExceptions = False  # no tracebacks when a log file cannot be written
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing tracebacks
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_text(config_name, usage))
            return
        check_options(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(job)()
        if failed:  # raised outside of Hydra, which would add a line
            raise failed[0]
    except BrokenPipeError:  # the reader of our output has closed it, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt as interrupt:
        end(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}", EXIT_INTERRUPTED)
    except Exception as error:
        message = _message(error)
        if wants_traceback or message is None:
            traceback.print_exc()
        failed_run = message is None or isinstance(error, FailedRun) or out_of_memory(error) is not None
        bad_input = not failed_run and not hasattr(error, "of_sweep")
        end(f"error: {message or one_line(error)}", EXIT_BAD_INPUT if bad_input else EXIT_FAILED)
    finally:
        logs.close()
        guard.release()


def end(line: str, status: int) -> None:
    """Exit with a last line, also written to the run's log. After bad input, remove an empty run directory."""
    logs.to_logs_only(line)
    if status == EXIT_BAD_INPUT:
        guard.remove_if_empty()
    terminal.fail(line, status)


def _message(error: Exception) -> str | None:
    """Explain an error in one line; None if it is a bug in this package."""
    return str(error) if isinstance(error, FailedRun) else out_of_memory(error) or explain(error)


def help_text(config_name: str, usage: str) -> str:
    """Write usage, options and defaults, in half the time of Hydra's --help."""
    config = compose([], config_name)
    options = [f"  {group}={'|'.join(names)}" for group, names in sorted(options_of().items()) if group in config]
    for added in ("experiment", "launcher") if config_name == "train" else ():
        options.append(f"  +{added}={'|'.join(options_of()[added])}")
    return "\n".join(
        [
            usage.strip(),
            *(["\nOptions:", *options] if options else []),
            "\nDefaults, changed by KEY=VALUE, as in trainer.max_epochs=200:\n",
            OmegaConf.to_yaml(config),
            "Hydra's flags: --hydra-help; --cfg job shows the composed configuration; -m sweeps over values a,b,c.",
        ]
    )


def expand_home(argv: list[str]) -> list[str]:
    """Expand `~` in the paths of command-line arguments, which shells keep in KEY=~/PATH and Hydra cannot parse."""
    lists = [
        re.sub(IN_LIST, lambda found: os.path.expanduser(found[0]), argument)
        if argument.startswith("run=[")
        else argument
        for argument in argv
    ]
    return [re.sub(HOME, lambda found: found[1] + os.path.expanduser(found[2]), argument) for argument in lists]


def resumed(argv: list[str]) -> list[str]:
    """Add to command-line arguments with `resume=DIR` that DIR is Hydra's run directory."""
    for argument in reversed(argv):
        key, _, directory = argument.partition("=")
        if key.lstrip("+") == "resume" and directory not in ("", "null"):
            # ++: the run's trainer and estimator may have other keys than the default ones
            own = [re.sub(r"^\+*(?=(trainer|estimator)\.)", "++", argument) for argument in argv]
            own = [re.sub(r"^\+(?=trust=)", "", argument) for argument in own]  # earlier versions required the +
            # keep the directory's .hydra/, the record of how the run was started
            return [*own, f"hydra.run.dir={directory}", "hydra.output_subdir=null"]
    return argv


def for_this_rank(argv: list[str]) -> list[str]:
    """Adapt command-line arguments under torchrun: all ranks share one run directory, and only rank 0 writes."""
    if not environment.is_distributed():
        return argv
    from pyro_vae.parallel.collectives import agreed_time  # imports torch

    os.environ["PYRO_VAE_TIME"] = agreed_time("%Y-%m-%d_%H-%M-%S")
    return argv if environment.rank() == 0 else [*argv, "hydra.output_subdir=null", "hydra/job_logging=disabled"]
