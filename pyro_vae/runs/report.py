"""What a run leaves to be read: results.json, evaluations/, plots/ and a table on screen."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pyro_vae import analysis
from pyro_vae.data import Dataset, Split
from pyro_vae.data.dataset import SPLITS
from pyro_vae.errors import BadInput, NoEvidence, datapoints, integer, one_line, one_of
from pyro_vae.marginal import BDMC, Estimator, Importance, LogEvidence, NoEstimate
from pyro_vae.marginal.summary import summarize, table, verdict
from pyro_vae.parallel import collectives
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.progress import of_split, progress
from pyro_vae.programs.random_state import set_seed
from pyro_vae.runs import baseline, comparison, files, metrics, plots
from pyro_vae.runs.files import Folder
from pyro_vae.runs.resume import saved_settings
from pyro_vae.training.trainer import State
from pyro_vae.vae import VAE

log = logging.getLogger(__name__)

CUSTOMARY_K = 1000


def report(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, state: State, run_dir: Path) -> None:
    """log p(x) of the test set to the screen and results.json; figures to plots/.

    Beside another estimator than importance sampling from the guide stands that, which papers report, unless
    `config.second_estimator` is false. An autoencoder's results say why there is no log p(x).
    """
    results: dict[str, Any] = {}
    independent, warning = baseline.independent_marginals(vae, data), None
    estimators: dict[str, Estimator] = {"test": estimator}
    if config.get("second_estimator", True) and type(estimator) not in (Importance, NoEstimate):
        estimators["importance"] = Importance(CUSTOMARY_K)
    try:
        for name, each in estimators.items():
            evidence, results[name] = _estimate(vae, data, data.test, each, config.seed, independent)
            if independent is not None and name == "test":
                warning = independent.warning(evidence)
            if collectives.rank() == 0:
                log.info(table(results[name], "test"))
    except NoEvidence as reason:
        results["test"] = {"elbo": None, "log_px": None, "refused": str(reason), "num_data": len(data.test)}
    if collectives.rank() > 0:
        return
    results["reconstruction_error"] = _reconstruction_error(vae, data.test)
    of_training = {"train_seconds": state.seconds, "skipped_steps": state.skipped}
    _write_json(run_dir / "results.json", {**results, **of_training, "config": saved_settings(config)})
    log.info(
        "reconstruction error of the test set: %.5f (mean squared, per dimension)", results["reconstruction_error"]
    )
    if config.get("plots", True):
        with _figures(run_dir / "plots"):
            draw(vae, data.test, metrics.read(run_dir), run_dir / "plots")
    _warn(results["test"].get("refused") or verdict(results["test"], estimator))
    _warn(warning)


def evaluate(
    vae: VAE, data: Dataset, split: Split, estimator: Estimator, config: DictConfig, run_dir: Path
) -> dict[str, Any]:
    """log p(x) of a split to the screen and to evaluations/NAME-K.json, per datapoint to NAME-K.npz, and figures.

    Returns:
        What is in the JSON.
    """
    simulates = isinstance(estimator, BDMC)  # its data, which have no baseline
    independent = None if simulates else baseline.independent_marginals(vae, data)
    evidence, summary = _estimate(vae, data, split, estimator, config.seed, independent)
    if collectives.rank() > 0:
        return summary
    about = {"split": config.split, "seed": config.seed, "settings": OmegaConf.to_container(config.estimator)}
    path = run_dir / "evaluations" / f"{summary['estimator']}-{summary['num_samples']}.json"
    content = {**summary, **about}
    _make_way(path, content)
    arrays = {name: _array(getattr(evidence, name)) for name in ("log_px", "se", "ess", "pareto_k", "unreliable")}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **{name: _array(value) for name, value in evidence.extra.items()})  # type: ignore[arg-type]
    files.write(path.with_suffix(".npz"), buffer.getvalue())
    _write_json(path, content)
    if config.plots:
        with _figures(path.parent):
            _draw_evidence(evidence, summary, split, path)
    log.info(table(summary, config.split))
    log.info("written: %s", path)
    _warn(verdict(summary, estimator))
    if independent is not None:
        _warn(independent.warning(evidence))
    return summary


@contextmanager
def _figures(folder: Path) -> Iterator[None]:
    """Within, figures are drawn. Those that cannot be, as of infinite numbers, are left out with a warning."""
    try:
        with progress("drawing figures", 1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the same numbers, of labels that are too long or not in the font
            yield
    except BadInput:
        raise
    except (ValueError, ArithmeticError) as error:
        _warn(f"warning: a figure in {folder} cannot be drawn, it is left out with those after it: {one_line(error)}")


def _draw_evidence(evidence: LogEvidence, summary: dict[str, Any], split: Split, path: Path) -> None:
    """The figures beside evaluations/NAME-K.json."""
    log_px, limits = _array(evidence.log_px), (split.x.min().item(), split.x.max().item())
    if summary["estimator"] != "bdmc":  # whose data are simulated
        plots.histogram(log_px, _array(split.x), path.with_name(f"{path.stem}-histogram.png"), limits)
    if evidence.tail is not None and len(evidence.tail) > 1:
        plots.tails(
            _array(evidence.tail),
            _array(evidence.pareto_k),
            path.with_name(f"{path.stem}-tails.png"),
            evidence.k_threshold,
        )
    if "curve" in summary:
        K, means, se = ([p[key] for p in summary["curve"]] for key in ("num_samples", "log_px", "log_px_mc_se"))
        plots.curve(K, means, se, path.with_name(f"{path.stem}-curve.png"))


def compare(summaries: dict[Path, dict[str, Any]], config: DictConfig, folder: Path) -> None:
    """The runs of a sweep side by side, to the screen, to evaluations/NAME-K.json and a figure beside it."""
    if collectives.rank() > 0:
        return
    first = next(iter(summaries.values()))
    about = {name: first[name] for name in ("estimator", "num_samples", "num_data")} | {"split": config.split}
    rows = comparison.compare(summaries)
    path = folder / "evaluations" / f"{about['estimator']}-{about['num_samples']}.json"
    _make_way(path, about)
    _write_json(path, {**about, "rows": rows})
    with _figures(path.parent):
        comparison.draw(rows, summaries, path.with_suffix(".png"))
    _warn(comparison.incomparable(summaries.values()))
    log.info(comparison.table(rows, _title(about)))
    log.info("written: %s", path)


def _title(about: dict[str, Any]) -> str:
    number = datapoints(about["num_data"])
    return f"{about['split']}, {number}, {about['estimator']}, K = {about['num_samples']}"


def _make_way(path: Path, content: dict[str, Any]) -> None:
    """Move what is there, if it is of other datapoints or settings, with its arrays and figures to a folder SPLIT-N."""
    before, now = _read_about(path), _about(content)
    if before is None or all(before.get(key, value) == value for key, value in now.items()):
        return
    name = f"{before['split']}-{before['num_data']}"
    with Folder(path.parent) as evaluations:
        for i in count(1):
            with Folder(path.parent / (name if i == 1 else f"{name}-{i}"), within=evaluations) as aside:
                if path.name in aside.names():
                    continue
                for file in evaluations.names():
                    if file.startswith((f"{path.stem}.", f"{path.stem}-")):
                        evaluations.move(file, aside)
                log.info("kept: %s", aside.path / path.name)
                return


def _read_about(path: Path) -> dict[str, Any] | None:
    """`_about` of an evaluation's file; None if it is missing or not ours. Names of folders are made from this."""
    try:
        about = _about(json.loads(files.read(path, limit=2**24)))
        one_of("split", about["split"], SPLITS)
        integer("num_data", about["num_data"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return about


def _about(content: dict[str, Any]) -> dict[str, Any]:
    """Of what and how the content of a JSON file has been estimated."""
    if "split" not in content:  # an analysis, of the training set and a split
        split, content = list(content.items())[-1]
        content = {**content, "split": split}
    return {key: content[key] for key in ("split", "num_data", "seed", "settings") if key in content}


def analyse(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, run_dir: Path) -> None:
    """Gaps and ELBO surgery of `config.analysis`, to the screen and to evaluations/.

    They are those of `config.split` and of the training set beside it: how the encoder generalizes.

    Where `config.num_data` is null, gaps are those of the first 100 datapoints, surgery is that of the first 1000.
    """
    if collectives.rank() > 0:
        return
    what = config.analysis
    folder = run_dir / "evaluations"
    set_seed(config.seed)
    if what in ("gaps", "all"):
        try:
            _gaps(vae, data, estimator, config, folder)
        except BadInput as error:  # not of this guide
            if what == "gaps":
                raise
            _warn(f"warning: no gaps: {error}")
    if what in ("surgery", "all"):
        rows = {}
        for name, split in _at_most(config.num_data or 1000, data, config.split):
            with of_split(name):
                rows[name] = analysis.surgery(vae.model, vae.guide, split.x, vae.taken_labels(split.y))
        _log_table("ELBO surgery (nats per datapoint)", rows)
        _write_rows(folder / "surgery.json", rows, {"seed": config.seed})
        if note := analysis.limit(rows[config.split], data.sizes[config.split]):
            log.info(note)
        _warn(analysis.collapse(rows[config.split]))


def _gaps(vae: VAE, data: Dataset, estimator: Estimator, config: DictConfig, folder: Path) -> None:
    rows = {}
    for name, split in _at_most(config.num_data or 100, data, config.split):
        with of_split(name):
            values = analysis.gaps(vae.model, vae.guide, split.x, estimator, vae.taken_labels(split.y))
        rows[name] = {key: value.mean().item() for key, value in values.items()} | {"num_data": len(split)}
    _log_table("gaps (nats per datapoint)", rows)
    _write_rows(folder / "gaps.json", rows, {"seed": config.seed, "settings": OmegaConf.to_container(config.estimator)})
    if config.plots:
        with _figures(folder):
            plots.gaps(rows, folder / "gaps.png")
    lowest = min(row["approximation_gap"] for row in rows.values())
    if lowest < -0.05:  # more than the noise of its two estimates
        _warn(
            f"warning: log p(x) is too low by {-lowest:.2f} nats or more, which an ELBO exceeds it by: "
            f"{estimator.advice() or 'take estimator=refined'}"
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
    for key, value in next(iter(rows.values())).items():
        if not isinstance(value, bool):
            lines.append(f"  {key:<19}{''.join(f'{analysis.shown(key, row):>12}' for row in rows.values())}")
    log.info("\n".join(lines))


def _warn(warning: str | None) -> None:
    if warning:
        log.warning(warning)


def _estimate(
    vae: VAE,
    data: Dataset,
    split: Split,
    estimator: Estimator,
    seed: int,
    independent: baseline.Baseline | None = None,
) -> tuple[LogEvidence, dict[str, Any]]:
    set_seed(seed, collectives.rank())
    own = split.share()
    if len(split) < collectives.world_size():
        raise BadInput(f"{datapoints(len(split))} leave some of {collectives.world_size()} processes none")
    evidence = estimator(vae.model, vae.guide, own.x, own.y)
    if independent is not None:
        evidence = independent.beside(evidence, own.x)
    evidence = LogEvidence.cat(collectives.gather(evidence.cpu()))  # of GPUs, too
    summary = summarize(evidence, estimator.name)
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
    total = 0.0
    with progress("reconstructing the test set", len(split), "datapoint") as tick:
        for x, y in _some_at_a_time(vae, split):
            total += vae.reconstruct(x, y=y).sub(x).square().sum().item()
            tick(len(x))
    return total / split.x.numel()


def _some_at_a_time(vae: VAE, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """x and the labels that the VAE takes, as many as fit into memory."""
    y = vae.taken_labels(split.y)
    return slices(rows_in_memory(1000, 1, vae.model, split.x, y), split.x, y)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    files.write(path, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(content: Any) -> Any:
    """The same with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@torch.no_grad()
def draw(vae: VAE, test: Split, rows: list[dict[str, float]], folder: Path) -> None:
    """The figures of a run."""
    limits = (test.x.min().item(), test.x.max().item())
    shown = test.first(min(10, len(test)))
    image = plots.is_image(_array(shown.x))
    if vae.num_classes is None:
        columns, drawn = None, vae.sample(64 if image else 500, mean=image)
    else:  # a column for each class
        columns = min(vae.num_classes, 10)
        drawn = vae.sample(8 * columns, y=torch.arange(columns).repeat(8), mean=image)
    plots.samples(_array(drawn), folder / "samples.png", limits, columns)
    reconstruction = vae.reconstruct(shown.x, y=vae.taken_labels(shown.y))
    plots.reconstructions(_array(shown.x), _array(reconstruction), folder / "reconstructions.png", limits)
    if rows:
        plots.training(rows, folder / "training.png")
    else:
        _warn(f"warning: metrics.csv has no rows: {folder / 'training.png'} is left out")
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
