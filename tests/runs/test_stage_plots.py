"""Figures of estimates that are made in stages show each stage, status and bound."""

import numpy as np
import pytest

from pyro_vae.marginal.evidence import STAGES
from pyro_vae.runs import figures
from pyro_vae.runs.plots import stages as stage_plots

STAGE = ["search"] * 6 + ["HMC"] * 3 + ["quadrature"]
STATUS = ["reliable"] * 6 + ["reliable", "unreliable", "unreliable", "exact"]


def test_each_stage_has_a_bar_with_its_share_and_seconds(tmp_path):
    ax = stage_plots.stages(STAGES, STAGE, np.array([0.5] * 6 + [4.0] * 3 + [1.0]), STATUS)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["quadrature", "search", "HMC"]
    assert [text.get_text().strip() for text in ax.texts] == [
        "10.0 %: 1 s, 1 s per datapoint", "60.0 %: 3 s, 0.5 s per datapoint", "30.0 %: 12 s, 4 s per datapoint",
    ]  # fmt: skip
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert widths == {"exact": [10, 0, 0], "reliable": [0, 60, 10], "unreliable": [0, 0, 20]}
    figures.save(ax, tmp_path / "stages.png")
    assert (tmp_path / "stages.png").stat().st_size > 1500


def test_bounds_are_sorted_with_their_estimates(tmp_path):
    log_px = np.random.default_rng(0).normal(size=10)
    above, below = stage_plots.lower_bounds(log_px, log_px - 0.5, log_px - 2, np.full(10, 0.01), STATUS)
    lines = {line.get_label(): line.get_ydata() for line in (*above.lines, *below.lines)}
    assert np.array_equal(lines["estimate of log p(x)"], np.sort(log_px))
    assert np.array_equal(lines["lower bound, 95 % confidence"], np.sort(log_px) - 0.5)
    counts = {status: len(lines[f"to the bound, {status}"]) for status in set(STATUS)}
    assert counts == {"exact": 1, "reliable": 7, "unreliable": 2}
    assert lines["to the bound, reliable"] == pytest.approx(0.5)
    figures.save(above, tmp_path / "bounds.png")
    assert (tmp_path / "bounds.png").stat().st_size > 1500


def test_bounds_of_estimates_that_are_exact_or_unknown_can_be_drawn(tmp_path):
    log_px = np.array([-1.0, -2.0, -3.0])
    lower = np.array([-1.0, -np.inf, -3.5])
    above, _ = stage_plots.lower_bounds(log_px, lower, log_px, np.array([0.0, 1.0, 0.1]), ["exact", *STATUS[-3:-1]])
    figures.save(above, tmp_path / "bounds.png")
