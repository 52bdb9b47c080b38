"""Checks of a run directory before anything is written there."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.errors import BadInput
from pyro_vae.parallel import environment
from pyro_vae.runs.config import option
from pyro_vae.runs.files import refuse_link

WRITTEN = (
    ".hydra", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "multirun.yaml", "train.log",
    "checkpoints", "plots", "evaluations", "scores",
)  # fmt: skip
"""Files and folders of a run that must not be symbolic links, through which a command would write elsewhere."""


def refuse_links(run_dir: Path) -> None:
    """Refuse a run directory with symbolic links, now instead of at the first write.

    Raises:
        BadInput: at the first link.
    """
    for name in WRITTEN:
        refuse_link(run_dir / name)


def check_run_directory(run_dir: Path, resume: bool, place: str = "hydra.run.dir") -> None:
    """Check that a run can be started, or with `resume` resumed, in a directory.

    Raises:
        BadInput: if a run would be overwritten, there is none to resume, or the directory has symbolic links.
    """
    saved = [name for name in ("last.pt", "previous.pt") if (run_dir / "checkpoints" / name).is_file()]
    # Hydra writes overrides.yaml last: if it exists, config.yaml is complete
    if resume and not saved and not (run_dir / ".hydra" / "overrides.yaml").is_file():
        raise BadInput(
            f"resume={run_dir} is not a run: it has no checkpoints/last.pt; give the directory that training printed"
        )
    if not resume and saved:
        raise BadInput(
            f"{run_dir} already holds a run: continue it with {option('resume', run_dir)}, or start a new one "
            f"with another {place}=DIR"
        )
    refuse_links(run_dir)


def patience() -> float:
    """Seconds to wait for another process in the directory: after a restart, the previous one may still be exiting."""
    return 120.0 if environment.restarted() else 0.0
