"""Search for options that raise the validation ELBO, with Optuna.

python -m pyro_vae.search study=mine.db num_trials=20 +experiment=bernoulli trainer.max_epochs=20 \\
    'space.latent_dim={low:2,high:50,log:true}' 'space.guide=[diagonal,full_covariance]' \\
    'space.optimizer.lr={low:1e-4,high:1e-2,log:true}'

All other arguments are passed to the runs. The study is stored: repeat the command to continue it,
or run several commands on it at once.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import stat
import sys
import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pyro_vae.commands import logs, shell
from pyro_vae.commands.space import leaves, require_options, suggest
from pyro_vae.errors import BadInput, FailedRun, integer, positive_int, shown
from pyro_vae.runs.config import compose
from pyro_vae.runs.files import given

if TYPE_CHECKING:
    from pyro_vae.runs.trials import Trials
    from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

STUDY = "pyro_vae"
"""Name of the study in its file."""
OPTUNAS = {"studies", "trials", "version_info", "alembic_version"}
"""Tables in Optuna's files, some of which are missing while another process creates the file."""
LARGEST = 1e100
"""Larger values are not ELBOs, and overflow in figures."""
OPTION = r"[a-zA-Z]\w*(\.[a-zA-Z]\w*)*"
"""Pattern of keys, without `_target_` or characters special to Hydra."""
NEVER = ("hydra", "resume", "trust")
"""Keys that must not be searched."""
OWN = ("study", "num_trials", "space", "sampler_seed", "hydra")
"""Keys of the search itself."""


def ask(study: Any, seed: int) -> Any:
    """Start a trial, with a seed that differs between trials, also of concurrent or later searches."""
    import optuna

    trial = study.ask()
    study.sampler = optuna.samplers.TPESampler(seed=seed + trial.number)
    return trial


def task(config: DictConfig) -> None:
    """Run `num_trials` trials, each in its own folder."""
    if OmegaConf.is_missing(config, "study"):
        raise BadInput("study is missing: give study=FILE.db, where the trials are stored")
    space = dict(leaves(OmegaConf.to_container(config.space, resolve=True)))  # type: ignore[arg-type]
    if not space:
        raise BadInput("space is empty: give +space.KEY=[choices], as in +space.latent_dim=[5,10,20]")
    positive_int("num_trials", config.num_trials)
    integer("sampler_seed", config.sampler_seed)
    require_options(config.train, space, OWN)
    try:
        import optuna
    except ImportError as error:
        raise BadInput("this command needs Optuna: pip install -e '.[search]'") from error
    from pyro_vae.runs import figures, plots
    from pyro_vae.runs.trials import Trials

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna")  # about unusual choices in a study
    study = _study(given(str(config.study)).absolute())
    _require_same_runs(study, config)
    _require_options(study, space, config.study)
    folder = given(HydraConfig.get().runtime.output_dir)
    logs.hold()  # until a trial trains
    log.info("run directory: %s; study of %d trials: %s", folder, len(study.trials), config.study)
    reason: Exception | None = None
    trials = Trials()
    for _ in range(config.num_trials):
        trial = ask(study, config.sampler_seed)
        chosen: dict[str, Any] = {}
        try:
            chosen = {key: suggest(trial, key, values) for key, values in space.items()}
            val_elbo = _run(
                [*config.train, *(f"{k}={v}" for k, v in chosen.items())], folder, trial.number, trials, study
            )
        except BaseException as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if not isinstance(error, FailedRun) and not (isinstance(error, BadInput) and chosen):
                raise
            reason = error  # e.g. incompatible options: other trials may work
            log.warning("trial %d failed: %s", trial.number, error)
            continue
        study.tell(trial, val_elbo)
        log.info("trial %3d  val/elbo %9.3f  %s", trial.number, val_elbo, chosen)
    done = _finished(study)
    if not done:
        raise reason or FailedRun("every trial has failed")
    best = max(done, key=lambda trial: trial.value)
    axes = plots.search([trial.number for trial in done], [trial.value for trial in done])
    figures.save(axes, folder / "search.png")
    if table := trials.table(best.number):
        log.info(table)
    log.info("best of %d: trial %d, val/elbo %.3f (nats per datapoint)", len(done), best.number, best.value)
    overrides = [*config.train, *(f"{key}={value}" for key, value in best.params.items())]
    log.info("python -m pyro_vae.train %s", shlex.join(overrides))


def _study(path: Path) -> Any:
    """Load the stored study, or create one if the file does not exist.

    Raises:
        BadInput: if the file holds anything but a study that maximizes one value. The file is not changed.
    """
    import optuna

    from pyro_vae.data.files import require_regular  # imports torch

    another = "give another study=FILE.db"
    if path.exists():
        require_regular(path, f"study={path}")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{path}"
    try:
        _require_no_links(path)
        if (tables := _tables(path)) and not tables & OPTUNAS:
            raise BadInput(f"study={path} is a database of another program: {another}")
        names = optuna.get_all_study_names(storage)
        if names and STUDY not in names:
            raise BadInput(f"study={path} holds other studies, {', '.join(names)[:100]}: {another}")
        study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)
        directions = [direction.name.lower() for direction in study.directions]
        if directions != ["maximize"]:
            raise BadInput(f"study={path} does not maximize one value (directions: {', '.join(directions)}): {another}")
        _finished(study)  # read all trials
    except BadInput:
        raise
    except Exception as error:  # SQLAlchemy raises many kinds
        raise BadInput(f"study={path} cannot be opened as a study ({type(error).__name__}): {another}") from error
    return study


def _require_no_links(path: Path) -> None:
    """Check the auxiliary files that SQLite would write beside the study.

    Raises:
        BadInput: if one is a link, a hard link to a file elsewhere, a folder, a pipe or a device.
    """
    for suffix in ("-journal", "-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        try:
            about = os.lstat(beside)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise BadInput(f"{beside} is not a regular file of this study, and SQLite would write to it: remove it")


def _tables(path: Path) -> set[str]:
    """List the tables in an SQLite file, without changing it.

    Raises:
        BadInput: if it holds views, triggers or computed columns, which might compute forever.
    """
    if not path.exists():
        return set()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        entries = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, sql in entries:
        if kind not in ("table", "index") or re.search(r"\bAS\b", str(sql), re.IGNORECASE):
            raise BadInput(f"study={path} was not written by Optuna: it holds the {kind} {name}, which computes")
    return {str(name) for kind, name, _ in entries if kind == "table"}


def _finished(study: Any) -> list[Any]:
    """Select the trials with a finite and plausible ELBO."""
    return [trial for trial in study.trials if trial.value is not None and abs(trial.value) < LARGEST]


def _require_same_runs(study: Any, config: DictConfig) -> None:
    """Check that the finished trials of a study have the same options, except for the device.

    Raises:
        BadInput: if they have not.
    """
    of_runs = sorted(str(option) for option in config.train if not str(option).startswith("trainer.device="))
    before = study.user_attrs.get("train", of_runs)
    if not isinstance(before, list) or not all(isinstance(option, str) for option in before):
        raise BadInput(f"study={config.study} does not record which runs it compares: give another study=FILE.db")
    if before != of_runs and _finished(study):
        raise BadInput(
            f"study={config.study} compares runs of {shlex.join(before) or 'no options'}, not of "
            f"{shlex.join(of_runs) or 'no options'}: give those, or another study=FILE.db"
        )
    study.set_user_attr("train", of_runs)


def _require_options(study: Any, space: Mapping[str, Any], path: str) -> None:
    """Refuse a study with options that a search never sets, since the best trial is printed as a command.

    Raises:
        BadInput: at options such as `optimizer._target_`, and at values that Hydra would interpret.
    """
    for trial in study.trials:
        for key, value in trial.params.items():
            is_option = key in space or re.fullmatch(OPTION, key, re.ASCII)
            text = str(value)
            if not is_option or key.partition(".")[0] in NEVER or not text.isprintable() or set(text) & set("{$"):
                raise BadInput(f"study={path} holds a trial of {key}={shown(value)}: give another study=FILE.db")


def _require_kind(study: Any, kind: Mapping[str, bool]) -> None:
    """Check that the ELBO of a trial is of the same kind as those of the finished trials.

    Raises:
        BadInput: if it is not, for example a density where they are probabilities.
    """
    before = study.user_attrs.get("kind")
    if _finished(study) and isinstance(before, dict):
        if mixed := [name for name, value in kind.items() if before.get(name) != value]:
            raise BadInput(
                f"its val/elbo cannot be compared with those of the earlier trials, among them would be {mixed[0]}: "
                "search options of one kind only"
            )
    else:
        study.set_user_attr("kind", dict(kind))


def _run(overrides: list[str], folder: Path, number: int, trials: Trials, study: Any) -> float:
    """Train a trial's run, and return the validation ELBO of its best epoch, in nats per datapoint."""
    from pyro_vae.runs import metrics
    from pyro_vae.runs.build import build_data, instantiate
    from pyro_vae.runs.kinds import kind_of
    from pyro_vae.runs.resume import make_paths_absolute
    from pyro_vae.runs.run import train

    config = compose(overrides)
    make_paths_absolute(config)
    instantiate(config, "estimator")
    data = build_data(config)
    if not len(data.val):
        raise BadInput("a search compares validation ELBOs: set data.num_val or data.val_fraction above 0")
    run_dir = folder / f"trial-{number}"

    def on_start(vae: VAE) -> None:
        logs.show()
        _require_kind(study, kind_of(vae))

    vae, state = train(config, data, run_dir, on_start=on_start)
    trials.add(number, vae, data)
    return metrics.read(run_dir)[state.best_epoch - 1]["val/elbo"]


def separate_arguments(argv: list[str]) -> list[str]:
    """Collect the command-line arguments of the runs in the list `train`."""
    argv = [re.sub(r"^(?=space\.)", "+", argument) for argument in argv]
    own = [a for a in argv if a.startswith("-") or a.lstrip("+~").partition("=")[0].partition(".")[0] in OWN]
    others = ",".join("'" + a.replace("'", "\\'") + "'" for a in argv if a not in own)
    return [*own, f"train=[{others}]"]


def main() -> None:
    """Run the command."""
    sys.argv[1:] = separate_arguments(shell.expand_home(sys.argv[1:]))
    shell.run(task, "search", __doc__ or "")
