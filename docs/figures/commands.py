"""Figures that the commands draw, from short runs; and small pictures."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).parent
MAX_WIDTH = 460
"""Pixels of a picture: figures are shown at about half their size."""
MAX_BYTES = 40_000
FAST = ["trainer.compile=false", "second_estimator=false", "estimator=importance"]


def small(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (2.9, 2.9)) -> Axes:
    """Return the axes of a small picture."""
    ax = Figure(figsize=size, layout="constrained").subplots()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title, fontsize=10)
    return ax


def write(figure: Figure, name: str) -> None:
    """Save a figure as a small PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    shrink(png, name)


def shrink(source: io.BytesIO | Path, name: str) -> None:
    """Save a PNG with few colours, at most `MAX_WIDTH` wide, and with fewer if it exceeds `MAX_BYTES`."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
    path = HERE / f"{name}.png"
    for width, num_colors in ((MAX_WIDTH, 64), (MAX_WIDTH, 16), (320, 16)):
        small_enough = rgb
        if rgb.width > width:
            small_enough = rgb.resize((width, round(rgb.height * width / rgb.width)), Image.Resampling.LANCZOS)
        colors = small_enough.quantize(num_colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        colors.save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return


def command(name: str, *arguments: str) -> None:
    """Run `python -m pyro_vae.NAME ARGUMENTS` in this process."""
    sys.argv = [name, *arguments]
    try:
        import_module(f"pyro_vae.{name}").main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"pyro_vae.{name} {' '.join(arguments)} failed") from stop


def draw_commands() -> None:
    """Draw the figures of train, evaluate, compare, score and search."""
    back = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _train()
            _evaluate()
            _tables()
            _several()
        finally:
            os.chdir(back)


def _plots(run: str, *names: str) -> None:
    for name in names:
        shrink(Path(run, "plots", f"{name}.png"), f"{run}_{name}")


def _train() -> None:
    digits = ["data=digits", "network.hidden=[100]", "optimizer.lr=3e-3", *FAST]
    command("train", *digits, "latent_dim=2", "trainer.max_epochs=40", "hydra.run.dir=digits")
    _plots("digits", "samples", "reconstructions", "training", "latent", "manifold")
    command("train", *digits, "latent_dim=6", "trainer.max_epochs=40", "hydra.run.dir=six")
    command("train", "+experiment=ring", "optimizer.lr=1e-2", "trainer.max_epochs=15", *FAST, "hydra.run.dir=ring")
    _plots("ring", "samples", "manifold", "reconstructions")
    t, rng = np.linspace(0, 1, 64), np.random.default_rng(0)
    phase, rate = rng.random((2, 400, 1, 1))
    angle = 2 * np.pi * ((1 + rate) * t + phase + np.array([[0.0], [0.25]]))
    series = np.sin(angle) + 0.1 * rng.normal(size=angle.shape)
    np.save("series.npy", series.astype(np.float32))
    options = ["data=array", "data.path=series.npy", "data.binarize=none", "likelihood=gaussian", "latent_dim=4"]
    command("train", *options, "network=conv1d", "optimizer.lr=3e-3", "trainer.max_epochs=15", *FAST,
            "hydra.run.dir=series")  # fmt: skip
    _plots("series", "samples", "reconstructions")


def _evaluate() -> None:
    command("evaluate", "run=six", "estimator=importance", "estimator.num_samples=[1,10,100,1000]")
    command("evaluate", "run=six", "estimator=auto", "num_data=100", "analysis=all", "num_steps=50")
    command("evaluate", "run=six", "estimator=bdmc", "num_data=40", "estimator.num_temperatures=20")
    for name in ("importance-1000-curve", "importance-1000-tails", "auto-1000-histogram", "auto-1000-stages",
                 "auto-1000-bounds", "bdmc-32-bounds", "gaps", "surgery"):  # fmt: skip
        shrink(Path("six", "evaluations", f"{name}.png"), f"evaluate_{name.replace('-1000', '').replace('-32', '')}")


def _tables() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=400)
    columns = {
        "age": 30 + 10 * group + rng.normal(0, 5, 400).round(1),
        "income": np.exp(rng.normal(8 + group / 2, 0.4)).round(),
        "children": rng.poisson(0.5 + group),
        "smoker": np.where(rng.random(400) < 0.1 + 0.25 * group, "yes", "no"),
        "region": np.array(["north", "south", "east"])[np.where(rng.random(400) < 0.8, group, 0)],
        "share": rng.beta(2 + group, 5).round(3),
    }
    rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    Path("table.csv").write_text("\n".join(rows))
    Path("new.csv").write_text("\n".join([*rows[:26], "95,250,7,yes,east,0.98"]))
    command("train", "data=table", "data.path=table.csv", "likelihood=table", "latent_dim=2", "network.hidden=[32]",
            "optimizer.lr=1e-2", "trainer.max_epochs=60", *FAST, "hydra.run.dir=table")  # fmt: skip
    _plots("table", "samples", "reconstructions")
    command("score", "run=table", "data.path=new.csv", "estimator=importance", "num_steps=5")
    shrink(Path("table", "scores", "new-histogram.png"), "score_histogram")


def _several() -> None:
    short = ["data=digits", "network.hidden=[30]", "trainer.max_epochs=4", "trainer.compile=false"]
    sweep = [*short, "second_estimator=false", "plots=false", "estimator=importance", "estimator.num_samples=200"]
    command("train", "-m", "latent_dim=2,8", "seed=1,2,3", *sweep, "hydra.sweep.dir=sweep")
    command("evaluate", "run=sweep", "estimator=importance", "estimator.num_samples=200")
    shrink(Path("sweep", "evaluations", "importance-200.png"), "evaluate_sweep")
    shrink(Path("sweep", "evaluations", "importance-200-paired.png"), "compare")
    command("search", "study=study.db", "num_trials=8", "+space.latent_dim=[1,2,4,8]",
            "+space.optimizer.lr={low: 1e-4, high: 1e-2, log: true}", *short, "trainer.max_epochs=2",
            "hydra.run.dir=search")  # fmt: skip
    shrink(Path("search", "search.png"), "search")
