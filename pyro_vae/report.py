"""What a run leaves to be read: results.json, evaluations/, plots/ and a table on screen."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pyro_vae import metrics, plots
from pyro_vae.checkpoint import write_atomically
from pyro_vae.data import Dataset, Split
from pyro_vae.experiment import set_seed
from pyro_vae.marginal import Importance, LogEvidence
from pyro_vae.marginal.summary import summarize, table
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)


def report(
    vae: VAE, data: Dataset, estimator: Importance, config: DictConfig, train_seconds: float, run_dir: Path
) -> None:
    """log p(x) of the test set to the screen and results.json; figures to plots/."""
    _, summary = _estimate(vae, data.test, estimator, config.seed)
    config_ = OmegaConf.to_container(config, resolve=True)
    _write_json(run_dir / "results.json", {"test": summary, "train_seconds": train_seconds, "config": config_})
    log.info(table(summary, "test"))
    draw(vae, data.test, metrics.read(run_dir), run_dir / "plots")


def evaluate(vae: VAE, split: Split, estimator: Importance, config: DictConfig, run_dir: Path) -> None:
    """log p(x) of a split to the screen and to evaluations/NAME-K.json, per datapoint to NAME-K.npz."""
    evidence, summary = _estimate(vae, split, estimator, config.seed)
    path = run_dir / "evaluations" / f"{summary['estimator']}-{summary['num_samples']}.json"
    path.parent.mkdir(exist_ok=True)
    arrays = {name: getattr(evidence, name).cpu().numpy() for name in ("log_px", "se", "ess", "pareto_k")}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    _write_json(path, {**summary, "split": config.split})
    log.info(table(summary, config.split))
    log.info("written: %s", path)


def _estimate(vae: VAE, split: Split, estimator: Importance, seed: int) -> tuple[LogEvidence, dict[str, Any]]:
    set_seed(seed)
    total = len(split) * estimator.num_samples
    with tqdm(total=total, desc="log p(x)", unit="draw", unit_scale=True, disable=None) as bar:
        evidence = estimator(vae.model, vae.guide, split.x, progress=bar.update)
    return evidence, summarize(evidence, type(estimator).__name__.lower())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@torch.no_grad()
def draw(vae: VAE, test: Split, rows: list[dict[str, float]], folder: Path) -> None:
    """The figures of a run."""
    folder.mkdir(exist_ok=True)
    x = test.x[:10]
    limits = (test.x.min().item(), test.x.max().item())
    image = plots.is_image(_array(x))
    plots.samples(_array(vae.sample(64, mean=True) if image else vae.sample(500)), folder / "samples.png", limits)
    plots.reconstructions(_array(x), _array(vae.reconstruct(x)), folder / "reconstructions.png", limits)
    plots.training(rows, folder / "training.png")
    z = vae.encode(test.x)
    if z.shape[-1] == 2:
        plots.latent(_array(z), None if test.y is None else _array(test.y), folder / "latent.png")
        # the prior's quantiles: each picture stands for the same share of p(z)
        quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, 16))
        grid = torch.stack(torch.meshgrid(-quantiles, quantiles, indexing="ij")[::-1], dim=-1)
        plots.manifold(_array(vae.decode(grid.flatten(0, 1))), folder / "manifold.png", limits)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
