"""The front door in Python: fit a VAE, load a trained one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from inspect import isclass, isfunction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pyro.infer import ELBO

from pyro_vae.data import Dataset
from pyro_vae.data.sources import Data, Source, source_of
from pyro_vae.errors import BadInput, called, one_line, one_of, shown, true_false
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.networks import Network
from pyro_vae.priors import Prior
from pyro_vae.programs import notes
from pyro_vae.programs.notes import as_python_warnings
from pyro_vae.programs.progress import shown_if
from pyro_vae.programs.random_state import callers_generators
from pyro_vae.programs.session import by_default
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.companions import AXES, completed, is_given
from pyro_vae.runs.config import explain, keys_of
from pyro_vae.runs.files import given, make_directory
from pyro_vae.runs.in_memory import NOT_IN_MEMORY, data_of, is_table
from pyro_vae.runs.options import configuration
from pyro_vae.runs.reload import held_out
from pyro_vae.runs.run import train
from pyro_vae.runs.saved import trained
from pyro_vae.runs.targets import OF_THE_MODEL, targets_in
from pyro_vae.training.device import torch_device
from pyro_vae.vae import VAE
from pyro_vae.vae.assemble import CONDITIONINGS

Option = str | tuple[Any, Mapping[str, Any]] | Mapping[str, Any] | Callable[..., Any]
"""A name, a name or class with settings, a class or partial; a network or an objective may be an instance."""
Callback = Callable[[dict[str, float]], Any]

KEYS = {
    "max_epochs": "trainer.max_epochs",
    "batch_size": "trainer.batch_size",
    "device": "trainer.device",
    "lr": "optimizer.lr",
    "binarize": "data.binarize",
    "standardize": "data.standardize",
    "val_fraction": "data.val_fraction",
    "kinds": "data.kinds",
}
"""Keys of the configuration that `fit`'s parameters set, where their names differ."""


class Stop(Exception):
    """A callback asked to end the training."""


@by_default()
@callers_generators()
def load(
    run_dir: str | Path, which: str = "best", device: torch.device | str = "cpu", trust: Collection[str] = ()
) -> VAE:
    """Load the trained VAE of a run directory.

    Args:
        run_dir: printed by `python -m pyro_vae.train`, or given to `fit` or `vae.save`.
        which: `best`, the epoch with the best validation bound (the ELBO; of an IWAE L_K), or `last`.
        device: where to put the VAE.
        trust: names of your own classes that the run uses, as in `["my_package.MyGuide"]`. Other code is never called.

    Raises:
        BadInput: if the directory is not a run, its checkpoint is damaged, or the device is not available.

    Example:
        >>> vae = pyro_vae.load("outputs/bernoulli/2026-11-21_10-00-00")  # doctest: +SKIP
        >>> vae.sample(16).shape                                          # doctest: +SKIP
        torch.Size([16, 1, 28, 28])
    """
    with as_python_warnings():
        return trained(given(run_dir), which, torch_device(str(device)), trust)


@by_default()
@callers_generators()
def fit(
    x: Data,
    y: Any = None,
    *,
    experiment: str | None = None,
    prior: Option | None = None,
    likelihood: Option | None = None,
    guide: Option | None = None,
    network: Option | Network | None = None,
    objective: Option | ELBO | None = None,
    conditioning: str | None = None,
    missingness: Option | None = None,
    latent_dim: int | Sequence[int] | None = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    binarize: str | None = None,
    standardize: bool | str | None = None,
    kinds: Mapping[str, Any] | None = None,
    val_fraction: float | None = None,
    validation_data: Data | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    verbose: bool = True,
    callbacks: Callback | Sequence[Callback] | None = None,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] | None = None,
) -> VAE:
    """Fit a VAE to an array, as `python -m pyro_vae.train data=array` does to a file.

    Parameters that you leave out have the value of the experiment, if you name one, else the default of conf/.

    An option is a name in conf/, as in `guide="low_rank"`; a name with settings, `("low_rank", {"rank": 2})` or
    `{"name": "low_rank", "rank": 2}`; or your own class, a class with settings `(MyGuide, {"width": 8})`, or a
    `functools.partial`. Networks and objectives may be instances: `network=MLP([64])`. Define your classes at the top
    level of a module or notebook: checkpoints keep their names, and `load` calls them only if you `trust` them.

    The result does not depend on the session: default dtype and device, autocast and Pyro's effect handlers around the
    call have no effect, and random generators are left in the state they were in. Threads wait for each other.

    Args:
        x: data `[N, ...]`: floats, booleans, integers or bytes. Integers are counts or grey levels if the likelihood is
            one of these, otherwise numbers. Bytes are divided by 255, except for counts. Or a map-style `Dataset` of
            tensors or pairs (tensor, label), a sparse matrix of SciPy, or AnnData (its X). Or a data frame of pandas,
            polars, …, which is a table with `likelihood="table"`, unless you choose another likelihood.
        y: labels `[N]`, integers from 0 on or names of classes (`vae.classes`); needs `conditioning`. Labels of a
            `Dataset` are used if the model is conditional. For AnnData a column of `obs`. With `semi_supervised`,
            −1 or NaN is a missing one, or None among names. Or covariates: an array `[N, M]` of numbers, a data frame,
            or names of columns of a frame x.
        experiment: name in conf/experiment, whose settings are the defaults; its data set is replaced by x.
        prior: p(z), an option of conf/prior (default `standard_normal`).
        likelihood: p(x | z), an option of conf/likelihood (default `bernoulli`).
        guide: q(z | x), an option of conf/guide (default `diagonal`).
        network: encoder and decoder, an option of conf/network (default `mlp`).
        objective: the bound to maximize, an option of conf/objective (default `trace_mean_field_elbo`).
        conditioning: `prior`: p(z | y), the prior `class_conditional` by default; `concat`: y enters encoder and
            decoder; `semi_supervised`: a `SemiSupervisedVAE`, which predicts classes; `none` (default).
        missingness: p(mask | x), an option of conf/missingness, for entries that are not missing at random:
            `self_masking`, `linear`, or `none` (default). log p(x) is then log p(x_obs, mask).
        latent_dim: dimension of z, or of z_1, …, z_L from the bottom up (default 20).
        max_epochs: passes over the training data (default 100).
        batch_size: datapoints a step (default 100).
        lr: learning rate (default 1e-3).
        binarize: `dynamic`, `static`, `threshold` or `none` (default).
        standardize: measure each column in its own scale, True, False or `auto` (default): if they differ very much.
        kinds: of a data frame's columns by name, where they are not recognized, as in `{"age": "count"}`: see
            `pyro_vae.data.from_frame`.
        val_fraction: share of x that is held out to choose the best epoch (default 0.1); 0 keeps the last epoch.
        validation_data: data as x, or a pair (x, y), to choose the best epoch by instead of a share of x.
        device: `cpu`, `cuda`, `cuda:1`, …, or `auto` (default): a GPU if there is one.
        seed: of initialization, batches and noise (default 0).
        verbose: show progress on stderr: a bar in terminals and notebooks, elsewhere a line every tenth of
            `max_epochs`, and every minute. If `logging` has a handler, that gets a line every epoch (level INFO)
            instead, and warnings; otherwise they are Python warnings. False: neither bar nor lines on stderr.
        callbacks: function or functions called with each epoch's row, a dict with the columns of metrics.csv. A
            function that returns True ends the training.
        run_dir: keep checkpoints and metrics there, for `load`; None: keep nothing on disk.
        overrides: whatever else the command accepts, as in `["trainer.patience=10"]`. They win over parameters.

    Returns:
        The VAE of the epoch with the best validation bound: the ELBO, or L_K of an IWAE, which is higher than the
        `val/elbo` that all objectives report. `vae.history` has the rows of all epochs. After Ctrl-C it is
        the best VAE so far, with a warning; before the end of the first epoch, KeyboardInterrupt is raised.

    Raises:
        BadInput: if the array or an option cannot be used, or memory runs out.
        FailedRun: if the loss becomes NaN or infinite.

    Example:
        >>> x = torch.rand(200, 12).round()
        >>> vae = pyro_vae.fit(x, network=("mlp", {"hidden": [16]}), latent_dim=2, max_epochs=2, verbose=False)
        >>> vae.encode(x).shape, len(vae.history)
        (torch.Size([200, 2]), 2)
    """
    overrides = () if overrides is None else overrides
    if isinstance(overrides, str):
        raise BadInput(f'overrides="{overrides}" must be a list of options: ["{overrides}"]')
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(option, str) for option in overrides):
        raise BadInput(f'overrides={shown(overrides)} must be a list of options, as in ["network.hidden=[64]"]')
    overridden = set(keys_of(overrides))
    if about_files := overridden & {"data", *(f"data.{key}" for key in NOT_IN_MEMORY)}:
        raise BadInput(f"the override {about_files.pop()} is for the command: the data of fit are x and y")
    if about_runs := [key for key in overridden if key == "resume" or key.partition(".")[0] == "hydra"]:
        raise BadInput(f"the override {about_runs[0]} is for the command: the run directory of fit is run_dir")
    if parameters_of_fit := overridden & KEYS.keys():
        name = parameters_of_fit.pop()
        raise BadInput(f"the override {name} is a parameter of fit: give fit(..., {name}=VALUE)")
    true_false("verbose", verbose)
    run_dir = None if run_dir is None else given(run_dir)
    if run_dir is not None and Checkpoints(run_dir).exist():
        raise BadInput(f"run_dir={run_dir} already holds a run: give another, or use pyro_vae.load(run_dir)")
    if validation_data is not None and val_fraction is not None:
        raise BadInput(f"val_fraction={shown(val_fraction)} and validation_data exclude each other: give one of them")
    if conditioning is not None:
        one_of("conditioning", conditioning, CONDITIONINGS)
    options = {
        "prior": prior, "likelihood": likelihood, "guide": guide, "network": network, "objective": objective,
        "conditioning": conditioning, "missingness": missingness,
    }  # fmt: skip
    parameters = {
        "latent_dim": latent_dim, "max_epochs": max_epochs, "batch_size": batch_size, "lr": lr, "binarize": binarize,
        "standardize": standardize, "kinds": kinds, "seed": seed,
        "val_fraction": val_fraction if validation_data is None else 0.0,
        "device": None if device is None else str(device),
    }  # fmt: skip
    values = {KEYS.get(name, name): value for name, value in parameters.items()}
    source = source_of(x, y)
    kind = "table" if is_table(x, likelihood, experiment, overrides) else "array"
    names = {key: name for name, key in KEYS.items() if key not in overridden}

    def config_of(changes: Mapping[str, str]) -> DictConfig:
        one_layer = {key: int(value) for key, value in changes.items() if key == "latent_dim"}
        others = {key: value for key, value in changes.items() if key != "latent_dim"}
        config = configuration({**options, **others}, {**values, **one_layer}, experiment, overrides, kind)
        _in_use(source, config)
        return config

    def call(changes: Mapping[str, str]) -> str:
        written = [f"{key}={value if key == 'latent_dim' else repr(value)}" for key, value in changes.items()]
        return f"fit(..., {', '.join(written)})"

    with called(names), shown_if(verbose), as_python_warnings(), TemporaryDirectory() as temporary:
        config = config_of({})
        data = data_of(config, _in_use(source, config), validation_data)
        if run_dir is not None:
            make_directory(run_dir, "run_dir")
        chosen = [axis for axis in AXES if {**options, **values}.get(axis) is not None or is_given(overrides, axis)]
        with completed(data, chosen, config_of, call, num_stages=2):
            return _fit(config, data, run_dir or Path(temporary), _tell(callbacks))


def _fit(config: DictConfig, data: Dataset, run_dir: Path, tell: Callback) -> VAE:
    interrupted = False
    try:
        train(config, data, run_dir, tell=tell)
    except InstantiationException as error:
        raise_out_of_memory(error)
        raise BadInput(explain(error) or one_line(error)) from error
    except Stop:
        pass
    except KeyboardInterrupt:
        if not Checkpoints(run_dir).best.is_file():
            raise
        interrupted = True
    content: Any = OmegaConf.to_container(config, resolve=True)
    trust = targets_in([content.get(group) for group in OF_THE_MODEL])  # it is the caller's own
    vae = trained(run_dir, "best", torch_device(config.trainer.device), trust)
    vae.held_out_data = held_out(data).in_memory  # a function, as that of `load`, which reads them when needed
    if interrupted:
        notes.warn(
            f"interrupted after {len(vae.history)} of {config.trainer.max_epochs} epochs: this is the best VAE so far"
        )
    return vae


def _tell(callbacks: Callback | Sequence[Callback] | None) -> Callback:
    """Return one function that calls all callbacks, and raises `Stop` if one returns True."""
    functions = [callbacks] if callable(callbacks) else () if callbacks is None else callbacks
    if not isinstance(functions, (list, tuple)) or not all(map(callable, functions)):
        raise BadInput(f"callbacks={shown(callbacks)} must be a function of an epoch's row, or a list of functions")

    def tell(row: dict[str, float]) -> None:
        answers = [function(dict(row)) for function in functions]
        if any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers):
            raise Stop

    return tell


def _in_use(source: Source, config: DictConfig) -> Source:
    """Refuse labels that the model ignores, unless they came with x, and a model of labels without them."""
    prior: Any = None
    with suppress(Exception):  # building the prior will tell
        prior = get_object(config.prior._target_)
    of_labels = isclass(prior) and issubclass(prior, Prior) and prior.conditional
    conditional = config.conditioning != "none" or of_labels
    in_use = conditional or isfunction(prior)  # a function may return a conditional prior
    if source.with_x and not in_use:
        return source._replace(y=None)
    if source.y is not None and not in_use:
        raise BadInput('y is given, but the model ignores it: give conditioning="prior" or "concat", or leave y out')
    if source.y is None and conditional:
        raise BadInput("this model is conditional: give y, labels or covariates, or leave conditioning and prior out")
    return source
