"""Restores trained VAEs from checkpoints, and checks that data fit them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyro
import torch
from omegaconf import OmegaConf

from pyro_vae.data import Dataset, Split, difference
from pyro_vae.errors import BadInput, causes, one_line, one_of
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.runs import checkpoint
from pyro_vae.runs.build import build_vae
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.fence import Fence
from pyro_vae.runs.targets import OF_THE_MODEL, check_sections
from pyro_vae.vae import VAE
from pyro_vae.vae.context import Covariates


def restore(
    run_dir: Path, which: str, device: torch.device | str, trust: Collection[str] = ()
) -> tuple[VAE, dict[str, Any]]:
    """Restore the VAE of a run, as `pyro_vae.load` does, with its checkpoint.

    The configuration's section data is not checked: callers that use it must call `check_sections`.

    Returns:
        The VAE in evaluation mode, and the content of the checkpoint.

    Raises:
        BadInput: if `run_dir` is not a run, or its checkpoint is damaged or not trusted.
    """
    checkpoints = Checkpoints(run_dir)
    if not checkpoints.folder.is_dir():
        kind = "is a file" if run_dir.is_file() else "has no checkpoints/" if run_dir.exists() else "does not exist"
        raise BadInput(f"{run_dir} is not a run directory: it {kind}; give the one that training printed")
    path = checkpoints.folder / f"{one_of('which', which, ('best', 'last'))}.pt"
    saved = checkpoints.load_last(device) if path == checkpoints.last else checkpoint.load(path, device)
    check_sections(saved["config"], OF_THE_MODEL, path, trust)
    with as_saved(saved, path, trust):
        vae = build_vae(
            OmegaConf.create(saved["config"]),
            saved["data_shape"],
            saved.get("num_classes"),
            saved.get("missing", False),
            saved.get("covariates"),
        )
    vae.classes, vae.features = tuple(saved.get("classes", ())), tuple(saved.get("features", ()))
    vae = vae.to(device)
    load_weights(vae, saved, path)
    return vae.eval(), saved


@contextmanager
def as_saved(saved: dict[str, Any] | None, path: Path, trust: Collection[str] | None) -> Iterator[None]:
    """Limit the memory for building the VAE of a checkpoint to a multiple of its weights.

    Without a checkpoint, or if classes are trusted, memory is not limited.

    Raises:
        BadInput: if the VAE cannot be built.
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
        if trust:  # otherwise the fence has refused
            raise_out_of_memory(error)
        reason = one_line([*causes(error)][-1])
        raise BadInput(f"{path}: its configuration and its weights do not make a VAE ({reason})") from error


def require_same_data(data: Dataset, identity: dict[str, Any], saved: dict[str, Any], run_dir: Path) -> None:
    """Check that data are those of a checkpoint: otherwise its training data might be among the held-out data.

    Args:
        data: the present data.
        identity: their `fingerprint`.
        saved: the checkpoint.
        run_dir: its run.

    Raises:
        BadInput: if they differ.
    """
    shape, found = list(data.data_shape), None
    if data.missing and data.columns is None and not saved.get("missing", False):
        raise BadInput(
            f"{run_dir} was trained on complete data, and these have missing entries (NaN): train it with them, or "
            "impute them first with vae.impute"
        )
    if shape != saved["data_shape"]:
        found = f"of shape {saved['data_shape']}, {shape} now"
    elif "data" in saved:  # missing in checkpoints of earlier versions
        found = difference(saved["data"], identity)
    if found is not None:
        config = saved["config"]["data"]
        if "path" in config and config["path"] is None:
            raise BadInput(
                f"{run_dir} was trained by fit() on other data: {found}; save the very array in the file, or use "
                "vae.log_prob if fit was given validation_data"
            )
        apart = next((f"{name}_path" for name in ("val", "test") if f"split={name}" in found), "path")
        place = next((f"data.{key}={config[key]}" for key in (apart, "path", "root") if config.get(key)), "them")
        raise BadInput(f"{run_dir} was trained on other data: {found}; restore {place}, or train a new run")


def require_finite_outputs(vae: VAE, split: Split, run_dir: Path) -> None:
    """Check on two datapoints that the networks have finite outputs: finite weights may be too large.

    Raises:
        BadInput: if they have not.
    """
    first = split.first(min(2, len(split)))
    try:
        with pyro.validation_enabled(False):
            finite = vae.reconstruct(first.x, y=vae.taken_labels(first.y)).isfinite().all()
    except (ValueError, RuntimeError) as error:  # raised by a distribution with such parameters
        raise_out_of_memory(error)
        finite = torch.tensor(False)
    if not finite:
        raise BadInput(f"{run_dir}: its weights are so large that its networks return NaN or infinity: train a new run")


def require_labels(vae: VAE, split: Split, run_dir: Path) -> None:
    """Check that a split has the covariates of a conditional model, or labels that are its classes.

    Raises:
        BadInput: if they are not.
    """
    if isinstance(vae.context, Covariates):
        if split.y is None or split.y.shape[1:] != (len(vae.context.names),):
            raise BadInput(f"{run_dir} is conditional: its data need the covariates {', '.join(vae.context.names)}")
        return
    num_classes = vae.num_classes if vae.needs_labels else None
    if num_classes is not None and (split.y is None or bool((split.y >= num_classes).any())):
        raise BadInput(f"{run_dir} is conditional: its data need labels from 0 to {num_classes - 1}")


def load_weights(vae: VAE, saved: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint into `vae`.

    Raises:
        BadInput: if their names, shapes or types differ, or they hold NaN, or parameters infinity.
    """
    own, parameters = vae.state_dict(), dict(vae.named_parameters(remove_duplicate=False))
    for name, value in saved["vae"].items():
        # exact EM saves in double precision
        if name in own and value.is_floating_point() != own[name].is_floating_point():
            raise BadInput(f"{path}: its weight {name} is of type {value.dtype}, not {own[name].dtype}")
        # buffers may hold infinity, as masks of attention do
        if value.isnan().any() or (name in parameters and value.isinf().any()):
            raise BadInput(f"{path}: its weight {name} holds values that are NaN or infinite")
    try:
        # a new dict: the file's may carry metadata that torch would trust
        vae.load_state_dict(dict(saved["vae"]))
    except RuntimeError as error:
        raise BadInput(
            f"{path}: its weights do not fit its configuration, or the shape of the data ({one_line(error)})"
        ) from error


def require_loadable(vae: VAE, path: Path) -> None:
    """Check that a VAE's first checkpoint can be loaded: after training would be too late. If not, remove it.

    Raises:
        BadInput: if it cannot, for example because a module has state other than tensors.
    """
    try:
        load_weights(vae, checkpoint.load(path, next(vae.parameters()).device), path)
    except BadInput as error:
        path.unlink()
        raise BadInput(
            f"this model could not be loaded after training ({error}): its modules may hold only real tensors, as "
            "parameters and buffers, and no other state"
        ) from error
