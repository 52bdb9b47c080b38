"""The data of a trained run, loaded again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pyro_vae.data import Dataset, Split, fingerprint
from pyro_vae.errors import BadInput, called
from pyro_vae.runs.build import build_data
from pyro_vae.runs.restore import require_same_data
from pyro_vae.runs.resume import move_data
from pyro_vae.runs.targets import OF_THE_DATA, check_sections


def reload(
    run_dir: Path,
    saved: Mapping[str, Any],
    trust: Collection[str],
    places: Mapping[str, Any],
    split: str,
    again: str,
    section: str = "data",
) -> tuple[Dataset, dict[str, Any]]:
    """Load the data of a run, and check that they are those it was trained on.

    Args:
        run_dir: the run.
        saved: its checkpoint.
        trust: names of the run's own classes.
        places: where the data are now, by key, if they have moved.
        split: the split that is needed.
        again: end of the message about a run whose data were in memory; `{run}`, `{file}` and `{split}` in it are
            replaced.
        section: section of the configuration that gives `places`, for messages.

    Returns:
        The data and their fingerprint.

    Raises:
        BadInput: if the data are missing, or differ from those of the run.
    """
    check_sections(saved["config"], OF_THE_DATA, run_dir, trust)
    of_run = OmegaConf.create(saved["config"])
    for key, place in places.items():
        if place is not None:
            move_data(of_run.data, key, str(place), f"{section}.{key}={place}", run_dir)
    if "path" in of_run.data and of_run.data.path is None:
        conditional, table = saved.get("num_classes") is not None, of_run.data.get("columns") is not None
        labelled = f"FILE.npz +{section}.key=x +{section}.label_key=y"
        file = "FILE.csv" if table else labelled if conditional else "FILE.npy"
        full = next(name for name in (split, "val", "train") if of_run.data.get(f"{name}_fraction", 1))
        call = again.format(run=shlex.quote(str(run_dir)), file=file, split=full)
        raise BadInput(f"{run_dir} was trained by fit() on data in memory, {call}")
    with called({f"data.{key}": f"{section}.{key}" for key in places}):
        data = build_data(of_run, may_download=False)
        identity = fingerprint(data)
        require_same_data(data, identity, dict(saved), run_dir)
    return data, identity


def held_out(data: Dataset) -> Split:
    """Return the test data, or the validation data if there are none."""
    return data.test if len(data.test) else data.val


def held_out_of(run_dir: Path, saved: Mapping[str, Any], trust: Collection[str]) -> Split:
    """Load the held-out data of a run from where they were in training.

    Raises:
        BadInput: as `reload` does.
    """
    data, _ = reload(run_dir, saved, trust, {}, "test", "which are not saved: give held_out=x_val")
    return held_out(data)
