"""Estimate log p(x) of a trained model, in nats per datapoint.

python -m pyro_vae.evaluate run=DIR
python -m pyro_vae.evaluate run=DIR estimator=importance estimator.num_samples=5000 split=test num_data=200
python -m pyro_vae.evaluate run=DIR estimator=importance estimator.num_samples=[1,10,100,1000]
python -m pyro_vae.evaluate run=DIR estimator=bdmc num_data=100
python -m pyro_vae.evaluate run=DIR analysis=all
torchrun --nproc_per_node=2 -m pyro_vae.evaluate run=DIR
"""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pyro_vae import cli
from pyro_vae.config import check_targets
from pyro_vae.errors import BadInput, one_of


def task(config: DictConfig) -> None:
    """Evaluate one run."""
    if config.analysis is not None:
        one_of("analysis", config.analysis, ("gaps", "surgery", "all"))
    if OmegaConf.is_missing(config, "run"):
        raise BadInput("run is missing: give run=DIR, the directory that python -m pyro_vae.train printed")
    from hydra.utils import instantiate

    from pyro_vae import distributed, experiment, report  # imports torch
    from pyro_vae.trainer import torch_device

    estimator, run_dir = instantiate(config.estimator), Path(str(config.run))
    device = torch_device(config.device)
    vae, trained_with = experiment.restore(run_dir, "best", device, config.trust)
    check_targets({"data": OmegaConf.to_container(trained_with.data)}, run_dir, config.trust)
    data = experiment.build_data(trained_with)
    split = data.split(config.split).first(config.num_data).to(device)
    experiment.warn_of_misfit(vae, [split])
    with distributed.process_group():
        report.evaluate(vae, data, split, estimator, config, run_dir)
    if config.analysis is not None:  # beside the training set: how the encoder generalizes
        splits = {name: data.split(name).to(device) for name in dict.fromkeys(["train", config.split])}
        report.analyse(vae, splits, estimator, config, run_dir)


def main() -> None:
    """The command."""
    sys.argv[1:] = cli.one_of_several(sys.argv[1:])
    cli.run(task, "evaluate", __doc__ or "")


if __name__ == "__main__":
    main()
