"""Checks that stored evaluations are of the same datapoints and of the same kind, so that they can be compared."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.data.fingerprint import other_datapoints
from pyro_vae.errors import BadInput
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.evaluations import Evaluation
from pyro_vae.runs.paired import Scores
from pyro_vae.runs.restore import restore

COPIED = 10
"""Seconds by which a checkpoint may be newer than an evaluation of it, because both were copied."""

log = logging.getLogger(__name__)


def require_comparable(
    chosen: Mapping[Path, Evaluation], scores: Sequence[Scores], trust: Collection[str] | None
) -> None:
    """Check that the first evaluation of several runs can be compared with each of the others.

    The checkpoints tell what data and likelihoods the runs have. A warning says what else differs: whether log p(x) is
    given labels, and the estimators' settings.

    Args:
        chosen: the evaluation of each run, of equal keys.
        scores: their values per datapoint.
        trust: names of the runs' own classes.

    Raises:
        BadInput: if the datapoints differ, or one log p(x) is a probability and the other one a density.
    """
    for run, one in chosen.items():
        _warn_if_trained_since(run, one)
    (first, evaluation), *others = chosen.items()
    vae, saved = restore(first, "best", "cpu", trust or ())
    for i, (run, other) in enumerate(others, start=1):
        its_vae, its_saved = restore(run, "best", "cpu", trust or ())
        if reason := _other_data(evaluation, saved, its_saved):
            raise BadInput(
                f"{run} and {first} have different datapoints ({reason}), so their log p(x) cannot be compared: train "
                "one again with the other's data options"
            )
        if not scores[0].may_be_of_same_rows(scores[i]):
            raise BadInput(
                f"{other.path} and {evaluation.path} are of different rows: repeat both evaluations, "
                f"{evaluation.command(first)} and {evaluation.command(run)}"
            )
        kinds = ["probabilities" if each.likelihood.discrete else "densities" for each in (its_vae, vae)]
        if kinds[0] != kinds[1]:
            raise BadInput(
                f"log p(x) of {run} are {kinds[0]} and those of {first} {kinds[1]}, which cannot be compared: give "
                "runs whose likelihoods are both discrete or both continuous"
            )
        of_mask, its_of_mask = (each["config"].get("missingness") is not None for each in (saved, its_saved))
        if of_mask != its_of_mask:
            masked, other_run = (run, first) if its_of_mask else (first, run)
            raise BadInput(
                f"log p(x) of {masked} is log p(x_obs, mask), as its missingness is modelled, and that of {other_run} "
                "log p(x_obs), which cannot be compared: give runs that both have a missingness model, or both none"
            )
        if vae.needs_labels != its_vae.needs_labels:
            told, not_told = (run, first) if its_vae.needs_labels else (first, run)
            log.warning("%s has log p(x | y), which is given the labels, and %s has log p(x)", told, not_told)
        if differing := _differing(_accuracy(other), _accuracy(evaluation)):
            log.warning("the estimates of %s and %s have other settings: %s", run, first, differing)


def _warn_if_trained_since(run: Path, evaluation: Evaluation) -> None:
    """Warn if a checkpoint is newer than the evaluation, e.g. because training was resumed."""
    if Checkpoints(run).best.stat().st_mtime > evaluation.path.stat().st_mtime + COPIED:
        log.warning("%s was trained after its evaluation: repeat it with %s", run, evaluation.command(run))


def _other_data(evaluation: Evaluation, saved: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Describe how the data of two checkpoints differ, in the datapoints of an evaluation; None if they do not."""
    shape, its_shape = (tuple(each["data_shape"]) for each in (saved, other))
    if shape != its_shape:
        return f"shapes {list(its_shape)} and {list(shape)}"
    noise, its_noise = (_noise(each["config"]["data"]) for each in (saved, other))
    if noise != its_noise:
        return _differing(its_noise, noise)
    if not ("data" in saved and "data" in other):  # checkpoints of earlier versions
        log.warning("a run was trained by an earlier version: whether its data are the same is not known")
        return None
    return other_datapoints(evaluation.split, evaluation.num_data, saved["data"], other["data"])


def _accuracy(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings that estimates depend on."""
    return {key: value for key, value in evaluation.settings.items() if key not in ("chunk_size", "compile")}


def _noise(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change held-out data, from section data of a configuration."""
    binarize, dequantize = config.get("binarize", "none"), bool(config.get("dequantize", False))
    options = {"data.binarize": binarize, "data.dequantize": dequantize}
    if binarize in ("dynamic", "static"):  # which draw held-out data once
        options["data.binarize"] = "dynamic or static"
    if dequantize or binarize in ("dynamic", "static"):
        options["data.eval_seed"] = config.get("eval_seed", 0)
    return options | ({"data.num_levels": config.get("num_levels", 256)} if dequantize else {})


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """List the options in which two mappings differ."""
    keys = [key for key in {**other, **one} if one.get(key) != other.get(key)]
    return ", ".join(f"{key}={one.get(key)} and {other.get(key)}" for key in keys)
