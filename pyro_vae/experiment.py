"""From a configuration to a trained VAE in a run directory, and back from there."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyro
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from pyro_vae.data import Dataset, Split, Stored, difference, fingerprint, from_array
from pyro_vae.data.vision import without_downloads
from pyro_vae.em import ExactEM
from pyro_vae.errors import (
    BadInput,
    NoEvidence,
    called,
    causes,
    in_callers_names,
    one_line,
    one_of,
    shown,
    true_false,
)
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.marginal import Estimator
from pyro_vae.parallel import collectives
from pyro_vae.programs import random_state
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.progress import progress, shown_if
from pyro_vae.programs.random_state import callers_generators, fork_rng, set_seed
from pyro_vae.programs.session import by_default
from pyro_vae.runs import baseline, checkpoint
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import check_key, check_settings, compose, explain
from pyro_vae.runs.directory import check_run_directory, patience
from pyro_vae.runs.fence import Fence
from pyro_vae.runs.files import Folder, given, make_directory
from pyro_vae.runs.locks import alone_in
from pyro_vae.runs.metrics import Metrics
from pyro_vae.runs.plain import read_yaml, with_references
from pyro_vae.runs.targets import OF_THE_DATA, OF_THE_MODEL, OF_TRAINING, as_names, check_sections
from pyro_vae.training.interrupt import deferred_interrupt
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer, torch_device
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

KEYS = {
    "max_epochs": "trainer.max_epochs",
    "batch_size": "trainer.batch_size",
    "lr": "optimizer.lr",
    "binarize": "data.binarize",
    "val_fraction": "data.val_fraction",
}
"""Keys of the configuration that `fit`'s parameters set, where their names differ."""

NOT_OF_ARRAYS = ("_target_", "path", "key", "label_key")
"""Keys of conf/data/array.yaml that are about a file."""

OF_REPORT = ("second_estimator", "plots")
"""Keys, true or false, about what follows the training. Runs of earlier versions do not have them."""


def build_vae(config: DictConfig, data_shape: Sequence[int], num_classes: int | None = None) -> VAE:
    """The VAE of a configuration, for data of that shape and with labels of so many classes.

    Raises:
        BadInput: if an option is out of its range or does not fit the data.
    """
    families = {axis: partial(instantiate, config[axis]) for axis in ("prior", "likelihood", "guide")}
    conditioning = config.get("conditioning", "none")
    network = instantiate(config.network)
    return VAE.build(
        data_shape, config.latent_dim, network, **families, conditioning=conditioning, num_classes=num_classes
    )


def make_paths_absolute(config: DictConfig) -> None:
    """So that the run can be evaluated and resumed from any folder."""
    for key in ("path", "root"):
        if config.data.get(key) is not None:
            config.data[key] = str(Path(os.path.expanduser(str(config.data[key]))).absolute())


def build_data(config: DictConfig, may_download: bool = True) -> Dataset:
    """The data set of a configuration.

    Args:
        config: of the run.
        may_download: whether to download data that are missing: not for a configuration from a file.

    Raises:
        BadInput: if it is not there or cannot be used.
    """
    with nullcontext() if may_download else without_downloads():
        data: Dataset = instantiate(config.data)
    return data


@by_default()
@callers_generators()
def load(
    run_dir: str | Path, which: str = "best", device: torch.device | str = "cpu", trust: Collection[str] = ()
) -> VAE:
    """The trained VAE of a run directory, which alone is needed.

    Args:
        run_dir: what `python -m pyro_vae.train` printed.
        which: `best`, the epoch of the highest validation ELBO, or `last`.
        device: where to put it.
        trust: names of your own classes in its configuration, `my_package.MyGuide` say: no others are called.

    Raises:
        BadInput: if the directory is no run, its checkpoint is truncated or foreign, or the device is not there.

    Example:
        >>> vae = pyro_vae.load("outputs/bernoulli/2026-11-21_10-00-00")  # doctest: +SKIP
        >>> vae.sample(16).shape                                          # doctest: +SKIP
        torch.Size([16, 1, 28, 28])
    """
    return restore(given(run_dir), which, torch_device(str(device)), trust)[0]


def restore(
    run_dir: Path, which: str, device: torch.device | str, trust: Collection[str] = ()
) -> tuple[VAE, dict[str, Any]]:
    """`load`, with the checkpoint it comes from. Callers that use its data must check that section themselves."""
    checkpoints = Checkpoints(run_dir)
    if not checkpoints.folder.is_dir():
        raise BadInput(f"{run_dir} is not a run directory: it has no checkpoints/")
    path = checkpoints.folder / f"{one_of('which', which, ('best', 'last'))}.pt"
    saved = checkpoints.load_last(device) if path == checkpoints.last else checkpoint.load(path, device)
    check_sections(saved["config"], OF_THE_MODEL, path, trust)
    with _as_saved(saved, path, trust):
        vae = build_vae(OmegaConf.create(saved["config"]), saved["data_shape"], saved.get("num_classes"))
    vae = vae.to(device)
    _load_weights(vae, saved, path)
    return vae.eval(), saved


@contextmanager
def _as_saved(saved: dict[str, Any] | None, path: Path, trust: Collection[str] | None) -> Iterator[None]:
    """Within, build the VAE of a checkpoint, which may not take much more memory than its weights.

    There is no limit without a checkpoint, or if classes are trusted.

    Raises:
        BadInput: if it cannot be built.
    """
    if saved is None:
        yield
        return
    sizes = [weights.numel() for weights in saved["vae"].values()]
    fence = nullcontext() if trust else Fence(8 * sum(sizes) + 2**24, 100 * len(sizes) + 100_000)
    try:
        with fence:
            yield
    except Exception as error:
        if trust:  # else it is the fence that has refused
            raise_out_of_memory(error)
        reason = one_line([*causes(error)][-1])
        raise BadInput(f"{path}: its configuration and its weights do not make a VAE ({reason})") from error


def require_same_data(data: Dataset, identity: dict[str, Any], saved: dict[str, Any], run_dir: Path) -> None:
    """Refuse data that are not those of a checkpoint: its training set may be among what is held out now.

    Args:
        data: what there is now.
        identity: its `fingerprint`.
        saved: the checkpoint.
        run_dir: its run.

    Raises:
        BadInput: if so.
    """
    shape, found = list(data.data_shape), None
    if shape != saved["data_shape"]:
        found = f"of shape {saved['data_shape']}, {shape} now"
    elif "data" in saved:  # it is not in those of earlier versions
        found = difference(saved["data"], identity)
    if found is not None:
        config = saved["config"]["data"]
        place = next((f"data.{key}={config[key]}" for key in ("path", "root") if config.get(key)), "them")
        raise BadInput(f"{run_dir} was trained on other data: {found}; restore {place}, or train anew")


def require_finite_outputs(vae: VAE, split: Split, run_dir: Path) -> None:
    """Check on two datapoints that the networks of a run give numbers: finite weights may be too large for that.

    Raises:
        BadInput: if they do not.
    """
    first = split.first(min(2, len(split)))
    try:
        with pyro.validation_enabled(False):
            finite = vae.reconstruct(first.x, y=vae.taken_labels(first.y)).isfinite().all()
    except (ValueError, RuntimeError) as error:  # of a distribution with such parameters
        raise_out_of_memory(error)
        finite = torch.tensor(False)
    if not finite:
        raise BadInput(f"{run_dir}: its weights are so large that its networks give NaN or infinity: train another run")


def require_labels(vae: VAE, split: Split, run_dir: Path) -> None:
    """Refuse data whose labels are not those of the classes that a conditional model has.

    Raises:
        BadInput: if so.
    """
    if vae.num_classes is not None and (split.y is None or bool((split.y >= vae.num_classes).any())):
        raise BadInput(f"{run_dir} is conditional: its data need labels from 0 to {vae.num_classes - 1}")


def _load_weights(vae: VAE, saved: dict[str, Any], path: Path) -> None:
    """Give `vae` the weights of a checkpoint.

    Raises:
        BadInput: if they have other names, shapes or types, or not all of them are finite.
    """
    own = vae.state_dict()
    for name, value in saved["vae"].items():
        # exact EM saves double precision
        if name in own and value.is_floating_point() != own[name].is_floating_point():
            raise BadInput(f"{path}: its weight {name} is of type {value.dtype}, not {own[name].dtype}")
        if not value.isfinite().all():
            raise BadInput(f"{path}: its weight {name} holds values that are NaN or infinite")
    try:
        # a new dict: the file's may carry metadata that torch would believe
        vae.load_state_dict(dict(saved["vae"]))
    except RuntimeError as error:
        raise BadInput(
            f"{path}: its weights do not fit its configuration, or the shape of the data ({one_line(error)})"
        ) from error


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
    with _as_saved(saved, checkpoints.last, config.get("trust")):
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
        log.warning("warning: %s", in_callers_names(warning))
    vae.initialize(start)
    _check(trainer, vae, objective, estimator, data)

    for value in vae.state_dict().values():
        collectives.from_rank_0(value)
    if collectives.rank() > 0:  # noise of its own
        set_seed(config.seed, collectives.rank())
    state, identity = State(), fingerprint(data)
    if saved is not None:
        require_same_data(data, identity, saved, run_dir)
        _load_weights(vae, saved, checkpoints.last)
        optim.set_state(saved["optim"])
        if len(saved["rng"]) == collectives.world_size():
            random_state.set_rng_state(saved["rng"][collectives.rank()])
        else:
            log.warning("warning: this run had %d processes before: its noise is another now", len(saved["rng"]))
        state = State.of(saved["state"], checkpoints.last)
        if state.epoch:
            try:
                checkpoint.load(checkpoints.best)
            except BadInput as error:  # found now, not when all is done
                log.warning("warning: %s: the best epoch is lost, the next takes its place", error)
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
    _load_weights(vae, checkpoint.load(checkpoints.best, device), checkpoints.best)
    vae.zero_grad()  # the last step's gradients are not needed any more
    vae.eval()
    if estimator is None and (warning := baseline.elbo_below(vae, data)):
        log.warning(in_callers_names(warning))
    return vae, state


def _check(trainer: Trainer | ExactEM, vae: VAE, objective: Any, estimator: Estimator | None, data: Dataset) -> None:
    """Refuse what does not go together before the work, not after it."""
    with pyro.get_param_store().scope(), fork_rng(data.val.x), eval_mode(vae):
        if note := trainer.check(vae, objective, *data.batch(torch.arange(min(2, len(data.train))))):
            log.info("note: %s", note)
        if isinstance(trainer, ExactEM):
            trainer.check_data(vae, data)
        if estimator is not None:
            with suppress(NoEvidence), pyro.validation_enabled(False):  # the report says why
                estimator.check(vae.model, vae.guide, data.test.x, data.test.y)


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
        content = with_references(read_yaml(path))
        log.info("note: %s was cut off before its first checkpoint: it starts from scratch", run_dir)
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


def warn_of_misfit(vae: VAE, splits: Sequence[Split]) -> None:
    """Say so where log p(x) of these data under this likelihood is not what it seems.

    Raises:
        BadInput: if the likelihood cannot take the data at all.
    """
    for warning in dict.fromkeys(vae.likelihood.check(split.x) for split in splits):
        if warning:
            log.warning("warning: %s", in_callers_names(warning))


def warn_of_empty_classes(vae: VAE, y: Tensor | None) -> None:
    """Say so where a conditional model has classes to which none of the training labels y `[N]` belongs."""
    if vae.num_classes is not None and y is not None:
        empty = (torch.bincount(y, minlength=vae.num_classes) == 0).nonzero().flatten().tolist()
        if empty:
            log.warning(
                "warning: %d of the %d classes have no training data, class %d is the first of them, and nothing is "
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


def _option(key: str, value: object) -> str:
    try:
        return f"{key}={'null' if value is None else value}"
    except ValueError as error:  # Python writes no integers of more than 4,300 digits
        raise BadInput(f"{key}={shown(value)} is too large") from error
    except Exception as error:  # it is the object's own code
        raise BadInput(f"{key}={shown(value)} cannot be written as an option ({one_line(error)})") from error


@by_default()
@callers_generators()
def fit(
    x: np.ndarray | Tensor,
    *,
    y: np.ndarray | Tensor | None = None,
    likelihood: str = "bernoulli",
    guide: str = "diagonal",
    network: str = "mlp",
    latent_dim: int | Sequence[int] = 20,
    max_epochs: int = 100,
    batch_size: int = 100,
    lr: float = 1e-3,
    binarize: str = "none",
    val_fraction: float = 0.1,
    seed: int = 0,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    verbose: bool = True,
) -> VAE:
    """Fit a VAE to an array: what `python -m pyro_vae.train data=array` does, from a notebook.

    The result does not depend on the session: default dtype and device, autocast and Pyro's effect handlers around the
    call have no effect, and random generators are left in the state they were in. Threads wait for each other.

    Args:
        x: data `[N, ...]`: floats, bytes (divided by 255) or booleans.
        y: labels `[N]` from 0 on, for `overrides=["conditioning=prior"]` or `concat`.
        likelihood: option of conf/likelihood.
        guide: option of conf/guide.
        network: option of conf/network.
        latent_dim: dimension of z, or of z_1, …, z_L from the bottom up.
        max_epochs: passes over the training data.
        batch_size: datapoints a step.
        lr: learning rate.
        binarize: `dynamic`, `static`, `threshold` or `none`.
        val_fraction: share of the data by which the best epoch is chosen; the others are trained on. With 0 the last
            epoch is kept.
        seed: of initialization, batches and noise.
        overrides: what else the command accepts, `["network.hidden=[64]", "trainer.patience=10"]` say.
        run_dir: keep checkpoints and metrics there, for `load`; None: keep nothing on disk.
        verbose: show progress on stderr: a bar in terminals and notebooks, elsewhere a line every tenth of
            `max_epochs`, and every minute. If `logging` has a handler, that gets a line every epoch (level INFO)
            instead. False: no bar and no lines on stderr; warnings remain.

    Returns:
        The VAE of the epoch with the best validation ELBO.

    Raises:
        BadInput: if the array or an option cannot be used, or memory runs out.
        FailedRun: if the loss becomes NaN or infinite.

    Example:
        >>> x = torch.rand(200, 12).round()
        >>> vae = pyro_vae.fit(x, latent_dim=2, max_epochs=2, overrides=["network.hidden=[16]"])
        >>> vae.encode(x).shape
        torch.Size([200, 2])
    """
    if isinstance(overrides, str):
        raise BadInput(f'overrides="{overrides}" must be a list of options: ["{overrides}"]')
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(option, str) for option in overrides):
        raise BadInput(f'overrides={shown(overrides)} must be a list of options, as in ["network.hidden=[64]"]')
    true_false("verbose", verbose)
    run_dir = None if run_dir is None else given(run_dir)
    if run_dir is not None and Checkpoints(run_dir).exist():
        raise BadInput(f"run_dir={run_dir} already holds a run: give another, or take pyro_vae.load of this one")
    several = isinstance(latent_dim, Sequence) and not isinstance(latent_dim, (str, bytes))
    latent_dim = list(latent_dim) if several else latent_dim  # type: ignore[arg-type]
    given_keys = {option.partition("=")[0].lstrip("+") for option in overrides}
    with called({key: name for name, key in KEYS.items() if key not in given_keys}), shown_if(verbose):
        config = compose(
            [
                "data=array",
                _option("data.binarize", binarize),
                _option("data.val_fraction", val_fraction),
                "data.test_fraction=0",
                _option("likelihood", likelihood),
                _option("guide", guide),
                _option("network", network),
                _option("latent_dim", latent_dim),
                _option("trainer.max_epochs", max_epochs),
                # exact EM has no batches
                *([] if "trainer=exact_em" in overrides else [_option("trainer.batch_size", batch_size)]),
                _option("optimizer.lr", lr),
                _option("seed", seed),
                *overrides,
            ]
        )
        return _fit(config, x, y, run_dir)


def _fit(config: DictConfig, x: np.ndarray | Tensor, y: np.ndarray | Tensor | None, run_dir: Path | None) -> VAE:
    """`fit`, once its options are a configuration."""
    settings = {key: value for key, value in config.data.items() if key not in NOT_OF_ARRAYS}
    with TemporaryDirectory() as temporary:
        data = from_array(x, y=y, **settings)
        if run_dir is not None:
            make_directory(run_dir, "run_dir")
        try:
            return train(config, data, run_dir or Path(temporary))[0]
        except InstantiationException as error:
            raise_out_of_memory(error)
            raise BadInput(explain(error) or one_line(error)) from error
