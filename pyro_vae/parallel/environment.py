"""What torchrun and Slurm tell a process they have started, in environment variables. Imports no torch."""

from __future__ import annotations

import os


def is_distributed() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them are on this machine; all, where that is not told."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def attempt() -> int:
    """How often torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarted() -> bool:
    """Whether this command has run before: torchrun has restarted it, or Slurm has requeued its job."""
    return attempt() > 0 or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
