"""The device to train and evaluate on."""

from __future__ import annotations

import torch

from pyro_vae.errors import BadInput, shown
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.parallel import environment


def torch_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is a GPU if available, one per process if several run on a machine.

    Raises:
        BadInput: if it is not available.
    """
    if name == "auto":
        name = f"cuda:{environment.local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(name))
        if device.type == "cpu" and device.index:  # torch makes tensors there, and loads none
            raise RuntimeError("the only CPU is cpu:0")
        torch.zeros(1, device=device).item()  # which `meta` does not hold
    except (RuntimeError, AssertionError) as error:
        raise_out_of_memory(error)
        raise BadInput(
            f"device={shown(name)} is not available here: use cpu or auto, or cuda on a machine with a GPU, and "
            "at most one process per GPU"
        ) from error
    return device
