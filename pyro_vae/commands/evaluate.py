"""Estimate log p(x) of a trained model, in nats per datapoint.

python -m pyro_vae.evaluate run=DIR
python -m pyro_vae.evaluate run=DIR estimator=importance estimator.num_samples=5000 num_data=200
python -m pyro_vae.evaluate run=DIR estimator=importance 'estimator.num_samples=[1,10,100,1000]'
python -m pyro_vae.evaluate run=DIR estimator=bdmc num_data=100
python -m pyro_vae.evaluate run=DIR certify=true
python -m pyro_vae.evaluate run=DIR analysis=all
python -m pyro_vae.evaluate run=DIR analysis=surgery estimator=none
python -m pyro_vae.evaluate run=DIR data.root=FOLDER  # or data.path=FILE, …, if the data have moved
python -m pyro_vae.evaluate run=SWEEP   # the directory of a sweep (-m): compare its runs
torchrun --nproc_per_node=2 -m pyro_vae.evaluate run=DIR
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig, OmegaConf

from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, in_section, one_of, positive_int, shown, true_false
from pyro_vae.runs.directory import refuse_links
from pyro_vae.runs.files import given

if TYPE_CHECKING:
    from pyro_vae.marginal import Estimator
    from pyro_vae.runs.comparison import Evaluated

log = logging.getLogger(__name__)


def task(config: DictConfig) -> None:
    """Evaluate one run, or evaluate and compare the runs of a sweep."""
    if config.analysis is not None:
        one_of("analysis", config.analysis, ("gaps", "surgery", "all"))
    if OmegaConf.is_missing(config, "run"):
        raise BadInput("run is missing: give run=DIR, the directory that python -m pyro_vae.train printed")
    from pyro_vae.analysis.certificate import require_testable
    from pyro_vae.marginal.estimator import require_estimator
    from pyro_vae.parallel import collectives
    from pyro_vae.runs import analyses, comparison, evaluation  # imports torch
    from pyro_vae.runs.build import instantiate

    positive_int("num_steps", config.num_steps)
    true_false("plots", config.plots)
    true_false("certify", config.certify)
    if isinstance(config.run, ListConfig):
        raise BadInput(
            f"run={shown(config.run)} lists several: give one run, or the directory of a sweep; pyro_vae.compare "
            "compares evaluations"
        )
    folder = given(str(config.run))
    refuse_links(folder)
    runs = comparison.runs_of(folder)
    estimator = require_estimator(instantiate(config, "estimator"))
    if not estimator.estimates and (runs or config.analysis != "surgery"):
        raise BadInput(
            f"estimator={estimator.name} leaves nothing to do: use it with analysis=surgery of a single run, or use "
            "another estimator"
        )
    if config.certify:
        with in_section("estimator", config.estimator):
            require_testable(estimator, analyses.CERTIFICATE_DATA)
    if estimator.simulates and config.analysis in ("gaps", "all"):
        raise BadInput(
            f"analysis={config.analysis} compares log p(x) and ELBOs of the same data, but estimator={estimator.name} "
            "simulates its data: use estimator=auto or ais, or analysis=surgery"
        )
    if runs and estimator.simulates:
        raise BadInput(
            f"estimator={estimator.name} simulates data from each model, so the log p(x) of the runs of {folder} do "
            "not compare: use estimator=auto or ais, or evaluate the runs one by one"
        )
    with collectives.process_group():
        if not runs:
            evaluate(config, folder, estimator)
            return
        evaluated = {}
        for run in runs:
            try:
                if found := evaluate(config, run, estimator):
                    evaluated[run] = found
            except BadInput as error:
                log.warning("%s is left out: %s", run, error)
                reason = error
        if not evaluated:
            raise BadInput(f"run={folder}: none of its {len(runs)} runs has a log p(x): {reason}")
        evaluation.compare(evaluated, config, folder)


def evaluate(config: DictConfig, run_dir: Path, estimator: "Estimator") -> "Evaluated | None":
    """Evaluate one run and analyse it; return None if the estimator does not estimate log p(x)."""
    from pyro_vae.runs import analyses, evaluation
    from pyro_vae.runs.comparison import Evaluated
    from pyro_vae.runs.kinds import kind_of
    from pyro_vae.runs.misfit import warn_of_misfit
    from pyro_vae.runs.reload import reload
    from pyro_vae.runs.restore import require_finite_outputs, require_labels, restore
    from pyro_vae.training.device import torch_device

    refuse_links(run_dir)
    device = torch_device(config.device)
    vae, saved = restore(run_dir, "best", device, config.trust)
    again = (
        "so data.path is missing: save them, then run python -m pyro_vae.evaluate run={run} data.path={file} "
        "split={split} (or use vae.log_prob)"
    )
    data, identity = reload(run_dir, saved, config.trust, config.data, config.split, again)
    if not data.sizes.get(config.split, 1):
        full = [name for name, size in data.sizes.items() if size]
        raise BadInput(f"split={config.split} of {run_dir} is empty: use split={full[-1]}")
    split = data.split(config.split, config.num_data).to(device)
    require_labels(vae, split, run_dir)
    warn_of_misfit(vae, [split])
    require_finite_outputs(vae, split, run_dir)
    evaluated = None
    if estimator.estimates:
        with in_section("estimator", config.estimator):
            summary = evaluation.evaluate(vae, data, split, estimator, config, run_dir)
        evaluated = Evaluated(summary, {**kind_of(vae), "other data": identity.get(config.split)})
    with in_section("estimator", config.estimator):
        if config.analysis is not None:
            analyses.analyse(vae, data.to(device), estimator, config, run_dir)
        if config.certify:
            analyses.certify(vae, data.to(device), estimator, config, run_dir)
    return evaluated


def main() -> None:
    """Run the command."""
    sys.argv[1:] = shell.for_this_rank(shell.expand_home(sys.argv[1:]))
    shell.run(task, "evaluate", __doc__ or "")
