"""Compare trained models: paired differences of log p(x) over the same datapoints, in nats.

python -m pyro_vae.compare 'run=[A,B]'
python -m pyro_vae.compare 'run=[A,B,C]' reference=best
python -m pyro_vae.compare 'run=[A,B]' evaluation=importance-5000 split=test num_data=200
python -m pyro_vae.compare run=SWEEP   # the directory of a sweep (-m)

It reads what `python -m pyro_vae.evaluate run=DIR` has stored, and names missing evaluations. The
table shows how much higher log p(x) is than that of the first run, with its standard error over
datapoints, and for how many datapoints an estimate is flagged as unreliable. comparison.json and
comparison.png are written to a new directory.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, datapoints, one_of, positive_int, shown, true_false
from pyro_vae.runs.directory import refuse_links
from pyro_vae.runs.files import given

if TYPE_CHECKING:
    from pyro_vae.runs.evaluations import Evaluation

log = logging.getLogger(__name__)


def task(config: DictConfig) -> None:
    """Compare stored evaluations of two or more runs."""
    if OmegaConf.is_missing(config, "run"):
        raise BadInput("run is missing: give run=[A,B], directories that python -m pyro_vae.train printed")
    from pyro_vae.data.dataset import SPLITS
    from pyro_vae.runs import evaluations, paired  # imports torch
    from pyro_vae.runs.figures import drawing, save
    from pyro_vae.runs.plots import paired as paired_plots
    from pyro_vae.runs.results import write_json
    from pyro_vae.runs.same_data import require_comparable

    one_of("reference", config.reference, ("first", "best"))
    true_false("plots", config.plots)
    if config.split is not None:
        one_of("split", config.split, SPLITS)
    if config.num_data is not None:
        positive_int("num_data", config.num_data)
    if config.evaluation is not None and not re.fullmatch(r".+-\d.*", str(config.evaluation)):
        raise BadInput(f"evaluation={shown(config.evaluation)} must be NAME-K, as in evaluation=auto-1000")
    runs = _runs(config.run)
    chosen = evaluations.common(runs, config.evaluation, config.split, config.num_data)
    scores = {str(run): one.scores() for run, one in zip(runs, chosen, strict=True)}
    require_comparable(dict(zip(runs, chosen, strict=True)), list(scores.values()), config.trust)
    reference = max(scores, key=lambda name: scores[name].log_px.mean()) if config.reference == "best" else str(runs[0])
    rows = paired.compare(scores, reference)
    folder = given(HydraConfig.get().runtime.output_dir)
    path = folder / "comparison.json"
    write_json(path, {**_about(chosen[0]), "reference": reference, "rows": rows})
    if config.plots:
        with drawing(folder):
            save(paired_plots.differences(scores, reference, chosen[0].value), path.with_suffix(".png"))
    log.info(paired.table(rows, _title(chosen[0], reference)))
    log.info("written: %s", path)
    if chosen[0].value == "ELBO":
        log.warning("these are ELBOs: a model with a higher lower bound need not have the higher log p(x)")
    else:
        for doubt in paired.doubts(rows):
            log.warning(doubt)


def _runs(value: Any) -> list[Path]:
    """Return the run directories, with the runs of sweeps in the place of their directories.

    Raises:
        BadInput: if there are fewer than two, or one is given twice.
    """
    from pyro_vae.runs import comparison

    values = list(value) if isinstance(value, ListConfig) else [value]
    runs: list[Path] = []
    for each in values:
        folder = given(str(each))
        runs += comparison.runs_of(folder) or [folder]
    for run in runs:
        if not run.is_dir():
            raise BadInput(f"run={run} is not a directory: give those that python -m pyro_vae.train printed")
        refuse_links(run)
    resolved = [run.resolve() for run in runs]
    if twice := [run for i, run in enumerate(runs) if resolved[i] in resolved[:i]]:
        raise BadInput(f"run lists {twice[0]} twice: give different runs, as in run=[A,B]")
    if len(runs) < 2:
        raise BadInput(f"run={shown(value)} is a single run: give at least two to compare, as in run=[A,B]")
    return runs


def _about(one: Evaluation) -> dict[str, Any]:
    names = ("estimator", "num_samples", "split", "num_data")
    return {"evaluation": one.path.stem, **{name: getattr(one, name) for name in names}}


def _title(one: Evaluation, reference: str) -> str:
    from pyro_vae.runs.paired import OVER, UNITS

    return (
        f"{one.split}, {datapoints(one.num_data)}, {one.estimator}, K = {one.num_samples}: {one.value} minus that of "
        f"{reference} {OVER} {UNITS}"
    )


def main() -> None:
    """Run the command."""
    sys.argv[1:] = shell.expand_home(sys.argv[1:])
    shell.run(task, "compare", __doc__ or "")
