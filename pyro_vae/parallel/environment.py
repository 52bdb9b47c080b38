"""Environment variables set by torchrun and Slurm. Imports no torch."""

from __future__ import annotations

import os


def is_distributed() -> bool:
    """Whether torchrun has started this process."""
    return "RANK" in os.environ


def rank() -> int:
    """Rank of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of processes on this machine; all of them if torchrun does not tell."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def attempt() -> int:
    """Number of times that torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarted() -> bool:
    """Whether torchrun has restarted this command, or Slurm has requeued its job."""
    return attempt() > 0 or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
