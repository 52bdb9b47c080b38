"""Train a variational autoencoder, estimate log p(x) of its test set and draw figures.

python -m pyro_vae.train +experiment=bernoulli
python -m pyro_vae.train +experiment=bernoulli guide=full_covariance latent_dim=10
python -m pyro_vae.train data=array data.path=FILE.npy likelihood=gaussian
python -m pyro_vae.train resume=DIR trainer.max_epochs=200
torchrun --nproc_per_node=2 -m pyro_vae.train +experiment=bernoulli
"""

import logging
import sys
from contextlib import nullcontext

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pyro_vae.commands import logs, shell
from pyro_vae.errors import BadInput, true_false
from pyro_vae.runs.config import option
from pyro_vae.runs.files import given

log = logging.getLogger(__name__)


def task(config: DictConfig) -> None:
    """Run one training, in Hydra's output directory or in the one given by `resume`."""
    from pyro_vae.marginal.estimator import require_estimator
    from pyro_vae.parallel import collectives  # imports torch
    from pyro_vae.parallel.environment import restarted
    from pyro_vae.runs import report
    from pyro_vae.runs.build import build_data, instantiate
    from pyro_vae.runs.companions import completed_command
    from pyro_vae.runs.restore import require_finite_outputs
    from pyro_vae.runs.resume import OF_REPORT, is_run_of, make_paths_absolute, resumed_config
    from pyro_vae.runs.run import train
    from pyro_vae.training import threads

    logs.hold()
    hydra = HydraConfig.get()
    run_dir = given(str(hydra.runtime.output_dir if config.resume is None else config.resume))
    if config.resume is not None:
        config = resumed_config(config, hydra.overrides.task, run_dir)
        resume = True
    else:
        make_paths_absolute(config)
        resume = restarted() and is_run_of(config, run_dir)
    log.info("run directory: %s", run_dir)
    try:
        estimator = require_estimator(instantiate(config, "estimator"))  # needed last, but wrong options fail now
        if estimator.simulates:
            raise BadInput(
                f"estimator={estimator.name} simulates data and cannot estimate log p(x) of the test set: train with "
                f"another estimator, then run pyro_vae.evaluate estimator={estimator.name}"
            )
        for key in OF_REPORT:
            true_false(key, config.get(key, True))
        data = build_data(config, may_download=not resume)
        data.split("test")
        with collectives.process_group():
            with nullcontext() if resume else completed_command(hydra.overrides.task, hydra.overrides.hydra, data):
                vae, state = train(
                    config, data, run_dir, resume=resume, estimator=estimator, on_start=lambda vae: logs.show()
                )
            if resume:
                require_finite_outputs(vae, data.test, run_dir)
            with threads.using(state.threads):
                report.report(vae, data, estimator, config, state, run_dir)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{option('resume', run_dir)} continues from the last epoch's checkpoint") from None
    log.info("run directory: %s", run_dir)


def main() -> None:
    """Run the command."""
    sys.argv[1:] = shell.for_this_rank(shell.resumed(shell.expand_home(sys.argv[1:])))
    shell.run(task, "train", __doc__ or "")
