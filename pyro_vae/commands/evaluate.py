"""Estimate log p(x) of a trained model, in nats per datapoint.

python -m pyro_vae.evaluate run=DIR
python -m pyro_vae.evaluate run=DIR estimator=importance estimator.num_samples=5000 split=test num_data=200
python -m pyro_vae.evaluate run=DIR estimator=importance estimator.num_samples=[1,10,100,1000]
python -m pyro_vae.evaluate run=DIR estimator=bdmc num_data=100
python -m pyro_vae.evaluate run=DIR analysis=all
python -m pyro_vae.evaluate run=DIR analysis=surgery estimator=none
python -m pyro_vae.evaluate run=DIR data.root=FOLDER   # or data.path=FILE: where the data have moved to
python -m pyro_vae.evaluate run=SWEEP   # the directory of a sweep (-m): a table of its runs
torchrun --nproc_per_node=2 -m pyro_vae.evaluate run=DIR
"""

import logging
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, in_section, one_of, true_false
from pyro_vae.runs.directory import refuse_links
from pyro_vae.runs.files import given

log = logging.getLogger(__name__)


def task(config: DictConfig) -> None:
    """Evaluate one run, or the runs of a sweep and compare them."""
    if config.analysis is not None:
        one_of("analysis", config.analysis, ("gaps", "surgery", "all"))
    if OmegaConf.is_missing(config, "run"):
        raise BadInput("run is missing: give run=DIR, the directory that python -m pyro_vae.train printed")
    from pyro_vae.build import instantiate
    from pyro_vae.marginal import BDMC, NoEstimate
    from pyro_vae.parallel import collectives
    from pyro_vae.runs import comparison, report  # imports torch

    true_false("plots", config.plots)
    folder = given(str(config.run))
    refuse_links(folder)
    runs = comparison.runs_of(folder)
    estimator = instantiate(config, "estimator")
    if isinstance(estimator, NoEstimate) and (runs or config.analysis != "surgery"):
        raise BadInput(
            "estimator=none leaves nothing to do: use it with analysis=surgery of a single run, or take another "
            "estimator"
        )
    simulates = isinstance(estimator, BDMC)
    if simulates and config.analysis in ("gaps", "all"):
        raise BadInput(
            f"analysis={config.analysis} compares log p(x) with ELBOs of the same data, and estimator=bdmc simulates "
            "its own: take estimator=refined or ais, or analysis=surgery"
        )
    if runs and simulates:
        raise BadInput(
            f"estimator=bdmc simulates data from each model, whose log p(x) do not compare the runs of {folder}: "
            "take estimator=refined or ais, or the runs one by one"
        )
    with collectives.process_group():
        if not runs:
            evaluate(config, folder)
            return
        summaries = {}
        for run in runs:
            try:
                summaries[run] = evaluate(config, run)
            except BadInput as error:
                log.warning("warning: %s is left out: %s", run, error)
                reason = error
        if not summaries:
            raise BadInput(f"run={folder}: none of its {len(runs)} runs has a log p(x): {reason}")
        report.compare(summaries, config, folder)


def evaluate(config: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Evaluate one run: what is known of log p(x), and of what it is that."""
    from pyro_vae.build import build_data, instantiate
    from pyro_vae.data import fingerprint
    from pyro_vae.marginal import NoEstimate
    from pyro_vae.runs import report
    from pyro_vae.runs.misfit import warn_of_misfit
    from pyro_vae.runs.restore import require_finite_outputs, require_labels, require_same_data, restore
    from pyro_vae.runs.targets import OF_THE_DATA, check_sections
    from pyro_vae.training.trainer import torch_device

    refuse_links(run_dir)
    estimator, device = instantiate(config, "estimator"), torch_device(config.device)
    vae, saved = restore(run_dir, "best", device, config.trust)
    check_sections(saved["config"], OF_THE_DATA, run_dir, config.trust)
    of_run = OmegaConf.create(saved["config"])
    for key, place in config.data.items():
        if place is None:
            continue
        if key not in of_run.data:
            raise BadInput(f"data.{key}={place}: the data of {run_dir} have no {key}, leave it out")
        of_run.data[key] = str(place)
    data = build_data(of_run, may_download=False)
    identity = fingerprint(data)
    require_same_data(data, identity, saved, run_dir)
    split = data.split(config.split, config.num_data).to(device)
    require_labels(vae, split, run_dir)
    warn_of_misfit(vae, [split])
    require_finite_outputs(vae, split, run_dir)
    summary: dict[str, Any] = {}
    with in_section("estimator", config.estimator):
        if not isinstance(estimator, NoEstimate):
            summary = report.evaluate(vae, data, split, estimator, config, run_dir)
        if config.analysis is not None:
            report.analyse(vae, data.to(device), estimator, config, run_dir)
    return {
        **summary,
        "of": {
            "log p(x | y) and log p(x)": vae.num_classes is not None,
            "probabilities and densities": vae.likelihood.discrete,
            "other data": identity.get(config.split),
        },
    }


def main() -> None:
    """The command."""
    sys.argv[1:] = shell.for_this_rank(shell.expand_home(sys.argv[1:]))
    shell.run(task, "evaluate", __doc__ or "")
