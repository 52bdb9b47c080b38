"""What a run leaves to be read: results.json, evaluations/, plots/ and a table on screen."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pyro.distributions.torch_distribution import TorchDistributionMixin
from tqdm import tqdm

from pyro_vae import analysis, baseline, comparison, distributed, metrics, plots
from pyro_vae.checkpoint import write_atomically
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput, NoEvidence
from pyro_vae.experiment import set_seed
from pyro_vae.marginal import BDMC, Importance, LogEvidence
from pyro_vae.marginal.memory import rows_in_memory
from pyro_vae.marginal.summary import summarize, table, verdict
from pyro_vae.marginal.weights import slices
from pyro_vae.trainer import State
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

CUSTOMARY_K = 1000


def report(vae: VAE, data: Dataset, estimator: Any, config: DictConfig, state: State, run_dir: Path) -> None:
    """log p(x) of the test set to the screen and results.json; figures to plots/.

    Beside another estimator than importance sampling from the guide stands that, which papers report. An autoencoder's
    results say why there is no log p(x).
    """
    results: dict[str, Any] = {}
    marginals, warning = baseline.independent_marginals(vae, data), None
    try:
        evidence, results["test"] = _estimate(vae, data, data.test, estimator, config.seed, marginals)
        warning = baseline.below(evidence)
        if type(estimator) is not Importance:  # not a kind of it, as ELBO
            results["importance"] = _estimate(vae, data, data.test, Importance(CUSTOMARY_K), config.seed, marginals)[1]
    except NoEvidence as reason:
        results["test"] = {"elbo": None, "log_px": None, "refused": str(reason), "num_data": len(data.test)}
    if distributed.rank() > 0:
        return
    results["reconstruction_error"] = _reconstruction_error(vae, data.test)
    config_ = OmegaConf.to_container(config, resolve=True)
    of_training = {"train_seconds": state.seconds, "skipped_steps": state.skipped}
    _write_json(run_dir / "results.json", {**results, **of_training, "config": config_})
    for name in ("test", "importance"):
        if name in results and "refused" not in results[name]:
            log.info(table(results[name], "test"))
    log.info(
        "reconstruction error of the test set: %.5f (mean squared, per dimension)", results["reconstruction_error"]
    )
    _warn(results["test"].get("refused") or verdict(results["test"]))
    _warn(warning)
    draw(vae, data.test, metrics.read(run_dir), run_dir / "plots")


def evaluate(
    vae: VAE, data: Dataset, split: Split, estimator: Any, config: DictConfig, run_dir: Path
) -> dict[str, Any]:
    """log p(x) of a split to the screen and to evaluations/NAME-K.json, per datapoint to NAME-K.npz, and figures.

    Returns:
        What is in the JSON.
    """
    simulates = isinstance(estimator, BDMC)  # its data, which have no baseline
    marginals = None if simulates else baseline.independent_marginals(vae, data)
    evidence, summary = _estimate(vae, data, split, estimator, config.seed, marginals)
    if distributed.rank() > 0:
        return summary
    about = {"split": config.split, "seed": config.seed, "settings": OmegaConf.to_container(config.estimator)}
    path = run_dir / "evaluations" / f"{summary['estimator']}-{summary['num_samples']}.json"
    content = {**summary, **about}
    _make_way(path, content)
    arrays = {name: _array(getattr(evidence, name)) for name in ("log_px", "se", "ess", "pareto_k", "unreliable")}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{name: _array(value) for name, value in evidence.extra.items()})  # type: ignore[arg-type]
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    _write_json(path, content)
    limits = (split.x.min().item(), split.x.max().item())
    if summary["estimator"] != "bdmc":  # whose data are simulated
        plots.histogram(arrays["log_px"], _array(split.x), path.with_name(f"{path.stem}-histogram.png"), limits)
    if evidence.tail is not None and len(evidence.tail) > 1:
        plots.tails(_array(evidence.tail), arrays["pareto_k"], path.with_name(f"{path.stem}-tails.png"))
    if "curve" in summary:
        K, log_px, se = ([p[key] for p in summary["curve"]] for key in ("num_samples", "log_px", "log_px_mc_se"))
        plots.curve(K, log_px, se, path.with_name(f"{path.stem}-curve.png"))
    log.info(table(summary, config.split))
    log.info("written: %s", path)
    _warn(verdict(summary))
    _warn(baseline.below(evidence))
    return summary


def compare(summaries: dict[Path, dict[str, Any]], config: DictConfig, folder: Path) -> None:
    """The runs of a sweep side by side, to the screen, to evaluations/NAME-K.json and a figure beside it."""
    if distributed.rank() > 0:
        return
    first = next(iter(summaries.values()))
    about = {name: first[name] for name in ("estimator", "num_samples", "num_data")} | {"split": config.split}
    rows = comparison.compare(summaries)
    path = folder / "evaluations" / f"{about['estimator']}-{about['num_samples']}.json"
    _make_way(path, about)
    _write_json(path, {**about, "rows": rows})
    comparison.draw(rows, summaries, path.with_suffix(".png"))
    _warn(comparison.incomparable(summaries.values()))
    log.info(comparison.table(rows, "{split}, {num_data} datapoints, {estimator}, K = {num_samples}".format(**about)))
    log.info("written: %s", path)


def _make_way(path: Path, content: dict[str, Any]) -> None:
    """Move what is there, if it is of other datapoints or settings, with its arrays and figures to a folder SPLIT-N."""
    path.parent.mkdir(exist_ok=True)
    try:
        before, now = _about(json.loads(path.read_text())), _about(content)
        name = f"{before['split']}-{before['num_data']}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # nothing, or nothing of ours
        return
    if all(before.get(key, value) == value for key, value in now.items()):
        return
    folders = (path.parent / (name if i == 1 else f"{name}-{i}") for i in count(1))
    folder = next(folder for folder in folders if not (folder / path.name).exists())
    folder.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.stem}[.-]*"):
        file.replace(folder / file.name)
    log.info("kept: %s", folder / path.name)


def _about(content: dict[str, Any]) -> dict[str, Any]:
    """Of what and how the content of a JSON file has been estimated."""
    if "split" not in content:  # an analysis, of the training set and a split
        split, content = list(content.items())[-1]
        content = {**content, "split": split}
    return {key: content[key] for key in ("split", "num_data", "seed", "settings") if key in content}


def analyse(vae: VAE, data: Dataset, estimator: Any, config: DictConfig, run_dir: Path) -> None:
    """Gaps and ELBO surgery of `config.analysis`, to the screen and to evaluations/.

    They are those of `config.split` and of the training set beside it: how the encoder generalizes.

    Where `config.num_data` is null, gaps are those of the first 100 datapoints, surgery is that of the first 1000.
    """
    if distributed.rank() > 0:
        return
    what = config.analysis
    folder = run_dir / "evaluations"
    folder.mkdir(exist_ok=True)
    set_seed(config.seed)
    if what in ("gaps", "all"):
        try:
            _gaps(vae, data, estimator, config, folder)
        except BadInput as error:  # not of this guide
            if what == "gaps":
                raise
            _warn(f"warning: no gaps: {error}")
    if what in ("surgery", "all"):
        rows = {
            name: analysis.surgery(vae.model, vae.guide, split.x, _labels(vae, split.y))
            for name, split in _at_most(config.num_data or 1000, data, config.split)
        }
        _log_table("ELBO surgery (nats per datapoint)", rows)
        _write_rows(folder / "surgery.json", rows, {"seed": config.seed})
        _warn(analysis.collapse(rows[config.split]))


def _gaps(vae: VAE, data: Dataset, estimator: Any, config: DictConfig, folder: Path) -> None:
    rows = {}
    for name, split in _at_most(config.num_data or 100, data, config.split):
        values = analysis.gaps(vae.model, vae.guide, split.x, estimator, _labels(vae, split.y))
        rows[name] = {key: value.mean().item() for key, value in values.items()} | {"num_data": len(split)}
    _log_table("gaps (nats per datapoint)", rows)
    _write_rows(folder / "gaps.json", rows, {"seed": config.seed, "settings": OmegaConf.to_container(config.estimator)})
    plots.gaps(rows, folder / "gaps.png")
    lowest = min(row["approximation_gap"] for row in rows.values())
    if lowest < -0.05:  # more than the noise of its two estimates
        _warn(
            f"warning: log p(x) is too low by {-lowest:.2f} nats or more, which an ELBO exceeds it by: "
            "raise estimator.num_samples, or take estimator=ais"
        )


def _write_rows(path: Path, rows: dict[str, dict[str, Any]], how: dict[str, Any]) -> None:
    content = {name: {**row, **how} for name, row in rows.items()}
    _make_way(path, content)
    _write_json(path, content)
    log.info("written: %s", path)


def _at_most(n: int, data: Dataset, split: str) -> list[tuple[str, Split]]:
    names = dict.fromkeys(["train", split])
    return [(name, data.split(name, min(n, data.sizes[name]))) for name in names]


def _log_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """A column for each of `rows`."""
    lines = [title, " " * 21 + "".join(f"{name:>12}" for name in rows)]
    for key in next(iter(rows.values())):
        cells = (format(row[key], "12.3f" if isinstance(row[key], float) else "12d") for row in rows.values())
        lines.append(f"  {key:<19}{''.join(cells)}")
    log.info("\n".join(lines))


def _warn(warning: str | None) -> None:
    if warning:
        log.warning(warning)


def _estimate(
    vae: VAE, data: Dataset, split: Split, estimator: Any, seed: int, marginals: TorchDistributionMixin | None = None
) -> tuple[LogEvidence, dict[str, Any]]:
    set_seed(seed, distributed.rank())
    own = split.share()
    if len(split) < distributed.world_size():
        raise BadInput(f"{len(split)} datapoints leave some of {distributed.world_size()} processes none")
    name = type(estimator).__name__.lower()
    total = len(own) * estimator.num_samples
    with tqdm(
        total=total, desc=name, unit="draw", unit_scale=True, disable=True if distributed.rank() else None
    ) as bar:
        evidence = estimator(vae.model, vae.guide, own.x, own.y, progress=bar.update)
    evidence = baseline.beside(evidence, marginals, own.x)
    evidence = LogEvidence.cat(distributed.gather(evidence.cpu()))  # of GPUs, too
    summary = summarize(evidence, name)
    if vae.num_classes is not None:
        summary["given"] = "y"
    bits = bits_per_dim(summary["log_px"], vae, data, split.x)
    return evidence, summary if bits is None else {**summary, "bits_per_dim": bits}


def bits_per_dim(log_px: float | None, vae: VAE, data: Dataset, x: torch.Tensor) -> float | None:
    """Bits a dimension that log p(x) nats of data x `[N, ...]` make, for a discrete likelihood or dequantized data.

    A density of data with uniform noise of one grey level bounds the probability of the level: −log p(x) / (D log 2) +
    log2(levels) bits are an upper bound (Theis, van den Oord & Bethge 2016, A note on the evaluation of generative
    models, https://arxiv.org/abs/1511.01844, §3.1). None for other densities, which have no unit.
    """
    discrete = vae.likelihood.discrete
    if log_px is None or discrete == data.dequantize or vae.likelihood.check(x):
        return None  # a density of no unit, or no likelihood of these data
    bits = -log_px / (math.prod(vae.data_shape) * math.log(2))
    return bits if discrete else bits + math.log2(data.num_levels)


@torch.no_grad()
def _reconstruction_error(vae: VAE, split: Split) -> float:
    """Mean squared difference of x and the mean of p(x | z) at its embedding, per dimension."""
    parts = [vae.reconstruct(x, y=y).sub(x).square().sum().item() for x, y in _some_at_a_time(vae, split)]
    return sum(parts) / split.x.numel()


def _some_at_a_time(vae: VAE, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """x and the labels that the VAE takes, as many as fit into memory."""
    y = _labels(vae, split.y)
    return slices(rows_in_memory(1000, 1, vae.model, split.x, y), split.x, y)


def _labels(vae: VAE, y: torch.Tensor | None) -> torch.Tensor | None:
    """y, for a VAE that takes it."""
    return None if vae.num_classes is None else y


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@torch.no_grad()
def draw(vae: VAE, test: Split, rows: list[dict[str, float]], folder: Path) -> None:
    """The figures of a run."""
    folder.mkdir(exist_ok=True)
    limits = (test.x.min().item(), test.x.max().item())
    shown = test.first(min(10, len(test)))
    image = plots.is_image(_array(shown.x))
    if vae.num_classes is None:
        columns, drawn = None, vae.sample(64 if image else 500, mean=image)
    else:  # a column for each class
        columns = min(vae.num_classes, 10)
        drawn = vae.sample(8 * columns, y=torch.arange(columns).repeat(8), mean=image)
    plots.samples(_array(drawn), folder / "samples.png", limits, columns)
    reconstruction = vae.reconstruct(shown.x, y=_labels(vae, shown.y))
    plots.reconstructions(_array(shown.x), _array(reconstruction), folder / "reconstructions.png", limits)
    plots.training(rows, folder / "training.png")
    if vae.latent_dim[0] == 2:
        z = torch.cat([vae.encode(x, y=y) for x, y in _some_at_a_time(vae, test)])
        plots.latent(_array(z), None if test.y is None else _array(test.y), folder / "latent.png")
        _draw_manifold(vae, folder / "manifold.png", limits)


def _draw_manifold(vae: VAE, path: Path, limits: tuple[float, float]) -> None:
    """The prior's quantiles, decoded: each picture stands for the same share of p(z). Of a discrete z all values."""
    y, p_z = (None, "p(z)") if vae.num_classes is None else (0, "p(z | y), y = 0")
    draws = vae.sample_z(10_000, y=y)
    values = draws.unique(dim=0)
    if len(values) <= draws.shape[-1]:
        plots.manifold(_array(vae.decode(values, y=y)), path, limits, "the values of z")
        return
    levels = torch.linspace(0.02, 0.98, 16, device=draws.device)
    first, second = draws.quantile(levels, dim=0).unbind(-1)
    grid = torch.stack(torch.meshgrid(first, second.flip(0), indexing="xy"), dim=-1)
    plots.manifold(_array(vae.decode(grid.flatten(0, 1), y=y)), path, limits, f"the quantiles of {p_z}")


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
