"""What a run saves, and how: atomically; loading never runs code from the file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import BadInput, one_line

FORMAT = 1
KEYS = frozenset({"config", "data_shape", "vae", "optim", "rng", "state"})


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds all of it or what it held before, even if the machine stops."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # as of write and fsync
            error.filename = str(path)
        raise


def save(paths: list[Path], checkpoint: dict[str, Any]) -> None:
    """Save one checkpoint under each of `paths`, each of them replaced atomically.

    Args:
        paths: files.
        checkpoint: `KEYS`, whose values are tensors, numbers, strings and containers of them.
    """
    buffer = io.BytesIO()  # torch.save to a full disk raises no OSError; writing bytes does
    torch.save({"format": FORMAT, **checkpoint}, buffer)
    for path in paths:
        write_atomically(path, buffer.getvalue())


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain containers are accepted (`weights_only=True`).

    Raises:
        BadInput: if the file is missing, truncated, or no checkpoint of this library.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zip, pickle, EOF and runtime errors, according to where the file breaks
        raise BadInput(f"{path} is truncated or no checkpoint ({type(error).__name__}: {_brief(error)})") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT or not checkpoint.keys() >= KEYS:
        raise BadInput(f"{path} is no checkpoint of pyro_vae (format {FORMAT})")
    return checkpoint


def _brief(error: Exception) -> str:
    return one_line(error).split(". ")[0][:120]


def get_rng_state() -> dict[str, Any]:
    """State of torch's generators on all devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `get_rng_state()`'s value."""
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
