"""A trained VAE and the run that it comes from."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyro_vae.errors import BadInput
from pyro_vae.runs import metrics
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.directory import refuse_links
from pyro_vae.runs.files import Folder, given, make_directory
from pyro_vae.runs.locks import alone_in
from pyro_vae.runs.reload import held_out_of
from pyro_vae.runs.restore import restore
from pyro_vae.vae import VAE
from pyro_vae.vae.history import History


def trained(run_dir: Path, which: str, device: torch.device, trust: Collection[str] = ()) -> VAE:
    """Return the VAE of a run, with its history, and able to `save` itself.

    Raises:
        BadInput: as `restore` does.
    """
    vae, content = restore(run_dir, which, "cpu", trust)  # on the CPU: the optimizer's state stays there
    history = History(metrics.read(run_dir)) if (run_dir / metrics.NAME).is_file() else History()
    for row in history:
        row.update(epoch=int(row["epoch"]), step=int(row["step"]))
    vae.history = history
    kept = {key: value for key, value in content.items() if key not in ("vae", "format")}
    vae.saver = partial(save, kept)
    vae.held_out_data = partial(held_out_of, run_dir, kept, trust)
    return vae.to(device)


def save(content: dict[str, Any], vae: VAE, path: str | Path) -> None:
    """Write a run directory with the weights that `vae` has now.

    Args:
        content: of the checkpoint that the VAE was loaded from, but for the weights.
        vae: the VAE.
        path: the run directory; it may exist, without a run.

    Raises:
        BadInput: if it holds a run already, or cannot be written.
    """
    run_dir = given(path)
    make_directory(run_dir, "run_dir")
    with alone_in(run_dir, "wait for it to end, or give another directory"):
        checkpoints = Checkpoints(run_dir)
        if checkpoints.exist():
            raise BadInput(f"run_dir={run_dir} already holds a run: give another directory")
        refuse_links(run_dir)
        weights = {name: value.cpu() for name, value in vae.state_dict().items()}
        with Folder(run_dir) as folder:
            folder.write(metrics.NAME, metrics.text(vae.history).encode())
        checkpoints.save({**content, "vae": weights}, is_best=True)
