"""Runs the commands with Hydra, and prints readable errors. Imports no torch."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pyro_vae.commands import guard, help, logs, terminal
from pyro_vae.commands.terminal import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from pyro_vae.errors import BadInput, FailedRun, meant, one_line
from pyro_vae.errors.memory import out_of_memory
from pyro_vae.parallel import environment
from pyro_vae.runs.config import check_options, check_settings
from pyro_vae.runs.explain import explain
from pyro_vae.runs.groups import CONFIG_DIR

PATHS = r"hydra\.run\.dir|hydra\.sweep\.dir|resume|run|study|(?:data|held_out)\.(?:path|root|val_path|test_path)"
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
            logs.show()
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                logs.show()
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
            print(help.text(config_name, usage, sys.argv[1:]))
            return
        if "--version" in sys.argv[1:]:  # Hydra would print its own
            print(f"pyro_vae {import_module('pyro_vae').__version__}")
            return
        check_flags(sys.argv[1:])
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
    else:
        logs.show()
    terminal.fail(line, status)


def _message(error: Exception) -> str | None:
    """Explain an error in one line; None if it is a bug in this package."""
    return str(error) if isinstance(error, FailedRun) else out_of_memory(error) or explain(error)


def check_flags(argv: list[str]) -> None:
    """Check that arguments with dashes are flags of Hydra, which would print its usage and no fix.

    Raises:
        BadInput: at the first that is not.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        if found := re.match(r"argument --([\w-]+).*: ignored explicit argument '(.*)'", message):
            raise BadInput(f"--{found[1]}={found[2]} has dashes: write {found[1]}={found[2]}")
        raise BadInput(f"{message}: see --help")

    parser.error = refuse  # type: ignore[method-assign]
    unread = [argument for argument in parser.parse_known_args(argv)[1] if argument.startswith("-")]
    if unread:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        key, _, value = unread[0].lstrip("-").partition("=")
        suggestion = meant(unread[0], flags) or f": options have no dashes, write {key}={value or 'VALUE'}"
        raise BadInput(f"{unread[0]} is not a flag{suggestion}")


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
            # ++: the run's options may have other keys than the default ones
            own = [re.sub(r"^\+*(?=(?!hydra)\w+\.)", "++", argument) for argument in argv]
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
