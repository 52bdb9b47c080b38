"""Checks of a run directory before anything is written there."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.errors import BadInput
from pyro_vae.parallel import environment
from pyro_vae.runs.config import option
from pyro_vae.runs.files import refuse_link

WRITTEN = (
    ".hydra", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "multirun.yaml", "train.log",
    "checkpoints", "plots", "evaluations",
)  # fmt: skip
"""Files and folders of a run that may not be symbolic links: a command would write elsewhere."""


def refuse_links(run_dir: Path) -> None:
    """Refuse a run directory in which symbolic links lead elsewhere, before the work: writing would refuse them later.

    Raises:
        BadInput: at the first.
    """
    for name in WRITTEN:
        refuse_link(run_dir / name)


def check_run_directory(run_dir: Path, resume: bool, place: str = "hydra.run.dir") -> None:
    """Check that a run can be started, or resumed, in a directory.

    Raises:
        BadInput: if a new run would overwrite one, there is nothing to resume, or links lead elsewhere.
    """
    saved = [name for name in ("last.pt", "previous.pt") if (run_dir / "checkpoints" / name).is_file()]
    # Hydra writes overrides.yaml after config.yaml: with it, that is whole
    if resume and not saved and not (run_dir / ".hydra" / "overrides.yaml").is_file():
        raise BadInput(f"resume={run_dir} is not a run: it has no checkpoints/last.pt")
    if not resume and saved:
        raise BadInput(
            f"{run_dir} already holds a run: {option('resume', run_dir)} goes on with it, another {place}=DIR starts "
            "a new one"
        )
    refuse_links(run_dir)


def patience() -> float:
    """Seconds to wait for another process in the directory: after a restart, the previous one may still be ending."""
    return 120.0 if environment.restarted() else 0.0
