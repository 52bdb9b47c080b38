"""The front door in Python: fit a VAE, load a trained one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from torch import Tensor

from pyro_vae.data import from_array
from pyro_vae.errors import (
    BadInput,
    called,
    one_line,
    shown,
    true_false,
)
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.programs.progress import shown_if
from pyro_vae.programs.random_state import callers_generators
from pyro_vae.programs.session import by_default
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import compose, explain
from pyro_vae.runs.files import given, make_directory
from pyro_vae.runs.restore import restore
from pyro_vae.runs.run import train
from pyro_vae.training.trainer import torch_device
from pyro_vae.vae import VAE

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
