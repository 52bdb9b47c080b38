"""JSON files of a run: results.json and evaluations/NAME-K.json."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from pyro_vae.data.dataset import SPLITS
from pyro_vae.errors import BadInput, integer, one_of
from pyro_vae.marginal.summary import Summary
from pyro_vae.runs import files
from pyro_vae.runs.files import Folder

log = logging.getLogger(__name__)

SIMULATED = "simulated"
"""The `split` of results on data that the model has simulated."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON. NaN and infinity become null; summaries of estimates become objects."""
    files.write(path, (json.dumps(_plain(content), indent=2, allow_nan=False) + "\n").encode())


def _plain(content: Any) -> Any:
    """Convert content to what JSON can hold."""
    if isinstance(content, Summary):
        return _plain(content.as_json())
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def set_aside(path: Path, content: dict[str, Any]) -> None:
    """Move a file to a folder SPLIT-N if it describes other datapoints or settings than the new content.

    Its arrays and figures move with it.
    """
    before, now = _read_origin(path), _origin(content)
    if before is None or all(before.get(key, value) == value for key, value in now.items()):
        return
    with Folder(path.parent) as evaluations:
        moved = [file for file in evaluations.names() if file.startswith((f"{path.stem}.", f"{path.stem}-"))]
        _move(evaluations, path.name, moved, f"{before['split']}-{before['num_data']}")


def keep_earlier(path: Path, content: bytes, *beside: str) -> None:
    """Move a file to a folder `earlier`, `earlier-2`, ... if its new content is another; so do the files beside it."""
    with Folder(path.parent) as folder:
        with suppress(BadInput):  # it is larger than the new content
            if not folder.holds(path.name) or files.read(path, limit=len(content)) == content:
                return
        _move(folder, path.name, [name for name in (path.name, *beside) if folder.holds(name)], "earlier")


def _move(folder: Folder, name: str, moved: Sequence[str], to: str) -> None:
    """Move files, of which `name` is one, to a folder within theirs: `to`, `to`-2, ..., the first that lacks `name`."""
    for i in count(1):
        with Folder(folder.path / (to if i == 1 else f"{to}-{i}"), within=folder) as aside:
            if name in aside.names():
                continue
            for file in moved:
                folder.move(file, aside)
            log.info("kept: %s", aside.path / name)
            return


def _read_origin(path: Path) -> dict[str, Any] | None:
    """Return the `_origin` of a file; None if it is missing or not ours. It is checked, as it names folders."""
    try:
        origin = _origin(json.loads(files.read(path, limit=2**24)))
        one_of("split", origin["split"], (*SPLITS, SIMULATED))
        integer("num_data", origin["num_data"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return origin


def _origin(content: dict[str, Any]) -> dict[str, Any]:
    """Return which datapoints and settings the content of a JSON file comes from."""
    if "split" not in content:  # an analysis, of the training set and a split
        split, content = list(content.items())[-1]
        content = {**content, "split": split}
    return {key: content[key] for key in ("split", "num_data", "seed", "num_steps", "settings") if key in content}
