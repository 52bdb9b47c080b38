import matplotlib
import numpy as np
import pytest
import torch
from conftest import COARSE
from matplotlib.collections import PathCollection
from PIL import Image

from pyro_vae.data.schema import Column
from pyro_vae.runs import figures, plots
from pyro_vae.runs.figures import _limits, save
from pyro_vae.runs.plots import scores, stages, style, tables, vectors

ROWS = [{"epoch": e, "train/elbo": -100.0 / e, "val/elbo": -110.0 / e, "train/kl": float(e)} for e in range(1, 6)]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures, "DPI", COARSE)


def legend_of(ax):
    (legend,) = ax.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def ticks_of(axis):
    axis.axes.figure.draw_without_rendering()
    return [text.get_text() for text in axis.get_ticklabels()]


def test_tile_puts_images_in_rows_with_lines_between():
    x = np.stack([np.full((1, 2, 3), v) for v in (0.1, 0.2, 0.3)])
    picture = plots.tile(x, columns=2)
    assert picture.shape == (2 * 3 - 1, 2 * 4 - 1)
    np.testing.assert_allclose(picture[:2, :3], 0.1)
    np.testing.assert_allclose(picture[:2, 4:], 0.2)
    np.testing.assert_allclose(picture[3:, :3], 0.3)
    np.testing.assert_allclose(picture[2], 0.5)
    np.testing.assert_allclose(plots.tile(10 * x, columns=2, limits=(1.0, 3.0))[:2, 4:], 0.5)
    assert plots.tile(np.zeros((5, 3, 4, 4)), 5).shape == (4, 24, 3)


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((28, 28), True),
        ((1, 8, 8), True),
        ((3, 9, 7), True),
        ((12,), False),
        ((2,), False),
        ((4, 9, 7), False),
        ((1, 5), False),
        ((3, 4), True),
        ((2, 2), True),
        ((80, 1000), True),
        ((1500, 2), False),
        ((2, 1500), False),
        ((24, 4), False),
        ((1, 100, 3), False),
    ],
)
def test_is_image(shape, image):
    assert plots.is_image(np.zeros((2, *shape))) == image


def test_figures_are_returned_as_axes_and_not_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plots.samples(np.zeros((4, 8, 8))).get_title() == "Samples: means of p(x | z), z ~ p(z)"
    assert "font.size" in style.STYLE
    assert matplotlib.rcParams["axes.grid"] is False  # the user's own settings
    assert plots.latent(np.zeros((4, 2))).get_xlabel() == "z₁"
    elbo, kl = plots.training(ROWS)
    assert elbo.figure is kl.figure
    assert len(plots.histogram(np.arange(9.0), np.zeros((9, 8, 8)))) == 3
    assert len(plots.histogram(np.arange(9.0), np.zeros((9, 5)))) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(28, 28), (1, 8, 8), (3, 9, 7), (12,), (2,), (1,), (2, 5, 6, 7)])
@pytest.mark.parametrize("n", [1, 4])
def test_every_figure_of_every_kind_of_data_is_drawn(shape, n, tmp_path):
    x = np.random.default_rng(0).random((n, *shape))
    for axes in (plots.samples(x), plots.reconstructions(x, 1 - x), plots.manifold(x)):
        save(axes, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 1  # something is drawn


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1500, 2), (1500, 8), (3, 9, 5000), (1, 500, 500), (10**5,)])
def test_large_data_make_no_large_figures(shape, tmp_path):
    x = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    x = np.concatenate([x] * 16)
    for axes in (plots.samples(x), plots.reconstructions(x[:10], x[:10]), plots.histogram(np.arange(64.0), x)):
        figures.save(axes, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert max(picture.size) < 16 * figures.DPI
            assert np.asarray(picture.convert("L")).std() > 1


def test_long_series_are_drawn_by_some_of_their_values():
    x = np.arange(20 * 3000.0).reshape(20, 3000) + 0.5
    panels = plots.samples(x).figure.axes
    assert len(panels) == 8
    for panel, row in zip(panels, x, strict=False):
        (line,) = panel.lines
        assert len(line.get_xdata()) == 500
        assert line.get_xdata()[[0, -1]].tolist() == [0, 2999]
        np.testing.assert_array_equal(line.get_ydata(), row[line.get_xdata()])


def test_tile_leaves_out_pixels_of_large_images():
    x = np.arange(4000.0).reshape(1, 1, 4000).repeat(8, 1) / 4000
    picture = plots.tile(np.concatenate([x, x]), columns=2)
    assert picture.shape == (2, 2 * 1000 + 1)
    np.testing.assert_allclose(picture[:, :1000], x[0, ::4, ::4], rtol=1e-6)


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_training(rows, tmp_path):
    save(plots.training(rows), tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1500


@pytest.mark.parametrize(("num_epochs", "whole"), [(2, True), (4, True), (20, False)])
def test_short_training_is_shown_whole(num_epochs, whole):
    """The training ELBO of the first epoch is far lower than what validation finds after it."""
    rows = [
        {**ROWS[0], "epoch": epoch, "train/elbo": -300.0 if epoch == 1 else -130.0, "val/elbo": -140.0 + epoch}
        for epoch in range(1, num_epochs + 1)
    ]
    elbo, _ = plots.training(rows)
    assert (elbo.get_ylim()[0] < -300) == whole


@pytest.mark.parametrize(("validated", "curves"), [(True, ["training", "validation"]), (False, ["training"])])
def test_the_legend_names_the_curves_that_are_drawn(validated, curves):
    elbo, _ = plots.training([row if validated else {**row, "val/elbo": np.nan} for row in ROWS])
    assert legend_of(elbo) == curves


def test_epochs_are_labelled_by_integers():
    both = plots.training([{**ROWS[0], "epoch": epoch} for epoch in (1, 2, 3)])
    assert all(float(tick).is_integer() for ax in both for tick in ax.get_xticks())


def test_figures_of_evaluations_say_what_they_show():
    values = np.arange(9.0)
    assert plots.histogram(values, np.zeros((9, 5)))[0].get_title() == "log p(x) of 9 datapoints"
    assert plots.histogram(values, np.zeros((9, 5)), name="ELBO")[0].get_title() == "ELBO of 9 datapoints"
    assert (
        plots.histogram(values, np.zeros((9, 5)), estimator="ais")[0].get_title() == "log p(x) of 9 datapoints by ais"
    )
    curve = plots.curve([1, 10], [-3.0, -2.0], [None, 0.3], "ELBO", "importance")
    assert curve.get_title() == "ELBO, estimator importance, from the first K of one set of samples"
    assert {"1", "10"} <= set(ticks_of(curve.xaxis))
    assert plots.bounds(values, values, simulated=True)[0].get_title() == "Bounds on log p(x) of simulated data"


def test_datapoints_are_counted_in_integers():
    values = np.arange(20.0)
    figures_of_20 = plots.bounds(values, values), stages.lower_bounds(*[values] * 4, ["reliable"] * 20)
    for ax in (ax for axes in figures_of_20 for ax in axes):
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_the_legend_of_embeddings_hides_none_of_them(tmp_path):
    ax = plots.latent(np.random.default_rng(0).normal(size=(300, 2)), np.arange(300) % 10)
    save(ax, tmp_path / "latent.png")
    (legend,) = ax.figure.legends
    assert len(legend.get_texts()) == 10
    assert not legend.get_window_extent().overlaps(ax.get_window_extent())


@pytest.mark.parametrize("shape", [(1, 8, 8), (12,)])
def test_figures_of_an_evaluation(shape, tmp_path):
    rng = np.random.default_rng(0)
    for axes in (
        plots.histogram(rng.normal(size=30), rng.random((30, *shape))),
        plots.curve([1, 10, 100], [-3.0, -2.0, -1.5], [None, 0.3, 0.1]),
        plots.tails(-np.sort(rng.random((20, 7)), 0), rng.normal(size=7)),
        *plots.bounds(np.array([-3.0, -1.0, -2.0]), np.array([-2.0, -1.0, -1.9])),
        *plots.bounds(np.array([-3.0, -1.0]), np.array([-2.0, -1.0]), np.array([1.0, 0.0])),
        plots.gaps(["train", "test"], [1.0, 2.0], [2.0, 3.0]),
    ):
        save(axes, tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 1500


@pytest.mark.parametrize("y", [None, np.arange(30) % 3, np.arange(30), np.zeros(30)])
def test_latent(y, tmp_path):
    save(plots.latent(np.random.default_rng(0).normal(size=(30, 2)), y), tmp_path / "latent.png")
    assert (tmp_path / "latent.png").stat().st_size > 1500


@pytest.mark.parametrize(
    ("k", "threshold", "labels"),
    [
        ([0.9, 0.1, 0.5], 0.63, ["lowest Pareto k: 0.10", "highest Pareto k: 0.90, unreliable above 0.63"]),
        ([np.nan] * 3, None, ["lowest share of the largest weight", "highest share of the largest weight"]),
    ],
)
def test_tails_tell_which_pareto_k_is_too_high_and_none_that_is_unknown(k, threshold, labels):
    ax = plots.tails(np.log([[0.5, 0.2, 0.3], [0.1, 0.1, 0.1]]), np.array(k), threshold)
    legend = legend_of(ax)
    assert [legend[0], legend[-1]] == labels
    assert not any("nan" in text for text in legend)


def test_each_channel_of_a_series_is_a_line_beside_the_data():
    x = np.broadcast_to([0.0, 1.0], (3, 1500, 2))
    panels = plots.reconstructions(x, 2 * x).figure.axes[:3]
    colors = [color for dark, light in vectors.PAIRS[:2] for color in (light, dark)]
    for panel in panels:
        assert [set(line.get_ydata()) for line in panel.lines] == [{0}, {0}, {1}, {2}]
        assert [line.get_color() for line in panel.lines] == colors
    assert legend_of(panels[0]) == ["data, channel 1", "model, channel 1", "data, channel 2", "model, channel 2"]


def test_samples_in_the_plane_are_drawn_over_the_data():
    data, x = np.random.default_rng(0).normal(size=(2, 40, 2))
    for ax in (plots.samples(x, data=data), plots.manifold(x[:36], data=data)):
        behind, drawn = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
        np.testing.assert_array_equal(behind, data)
        np.testing.assert_array_equal(drawn, x[: len(drawn)])
    assert legend_of(plots.samples(x, data=data)) == ["data", "samples"]


def test_pairs_of_rows_are_data_and_reconstructions_scaled_by_the_data():
    x = np.array([[0.5, 10.0, -1.0], [1.5, 30.0, 0.0]])
    ax = plots.reconstructions(x, np.array([[1.0, 20.0, -1.0], [1.5, 10.0, 1.0]]))
    np.testing.assert_allclose(ax.images[0].get_array(), [[0, 0, 0], [0.5, 0.5, 0], [1, 1, 1], [1, 0, 2]])
    assert ticks_of(ax.yaxis) == ["1", "2"]
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    binary = plots.reconstructions(np.eye(3), np.full((3, 3), 0.2)).images[0].get_array()
    np.testing.assert_allclose(binary[:2], [[1, 0, 0], [0.2, 0.2, 0.2]])


def test_intervals_of_dimensions_show_quantiles_without_missing_values():
    x = np.tile(np.arange(101.0)[:, None], (1, 3))
    data = np.where(np.arange(3) == 1, np.nan, x) + 1000.0
    data[:, 1] = 7.0
    data[5:, 2] = np.nan
    ax = plots.samples(x, data=data)
    _, thick_of_data, thin, thick = ([s[:, 1].tolist() for s in c.get_segments()] for c in ax.collections)
    assert thin == [[5, 95]] * 3
    assert thick == [[25, 75]] * 3
    assert thick_of_data == [[1025, 1075], [7, 7], [1001, 1003]]
    assert ax.get_xlabel() == "dimension"
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


@pytest.mark.parametrize("D", [1, 2, 7, 30])
def test_missing_values_do_not_hinder_figures(D, tmp_path):
    x = np.random.default_rng(0).normal(size=(16, D))
    holes = np.where(np.random.default_rng(1).random((16, D)) < 0.3, np.nan, x)
    for ax in (plots.samples(x, data=holes), plots.reconstructions(holes, x)):
        save(ax, tmp_path / "a.png")


def test_classes_have_their_names():
    z, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3 - 1
    names = legend_of(plots.latent(z, y, ("cat", "a very long name of a dog")))
    assert names == ["missing", "cat", "… long name of a dog"]
    ax = plots.samples(np.zeros((16, 8, 8)), columns=2, classes=("cat", "dog"))
    assert ticks_of(ax.xaxis) == ["cat", "dog"]
    assert ticks_of(plots.samples(np.zeros((16, 8, 8)), columns=2).xaxis) == ["0", "1"]


def test_columns_of_tables_have_their_names_and_categories():
    columns = [
        Column("a long name of $ome column", "real"),
        Column("kids", "count"),
        Column("color", "categorical", "text", ("red", "green", "a very long category")),
    ]
    x = np.array([[0.5, 0, 0], [1.5, 1, 1], [2.5, 5, 2]])
    for ax, axis in ((tables.samples(columns, x, x), "xaxis"), (tables.reconstructions(columns, x, x), "yaxis")):
        panels = ax.figure.axes
        assert [panel.get_title() for panel in panels] == ["a long name of $ome\ncolumn", "kids", "color"]
        assert ticks_of(getattr(panels[2], axis)) == ["red", "green", "a very long…"]
        assert all(float(tick).is_integer() for tick in panels[1].get_xticks())


def test_bars_show_their_values():
    ax = plots.surgery(["train", "test"], [3.0, 2.5], [0.5, 0.25], at_limit=True)
    assert [text.get_text() for text in ax.texts] == ["  3 + 0.5", "  2.5 + 0.25"]
    assert legend_of(ax) == ["I(x; z) or more", "KL(q(z) ‖ p(z)) or less"]
    assert [bar.get_x() for bar in ax.containers[1]] == [3.0, 2.5]
    assert plots.gaps(["test"], [1.0], [2.0]).get_xlabel() == "nats per datapoint"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.training(ROWS)[0],
        lambda: plots.curve([1, 10], [-3.0, -2.0], [0.1, 0.1]),
        lambda: plots.bounds(*np.random.default_rng(0).normal(size=(2, 9)))[0],
        lambda: plots.comparison({"latent_dim=2 " * 9: [1.0, 2.0]}, [1.5], [0.5]),
        lambda: plots.search([0, 1, 2], [-3.0, -1.0, -2.0]),
        lambda: scores.among_held_out(np.arange(9.0), np.arange(5.0) - 30, "test"),
    ],
)
def test_legends_hide_nothing(draw, tmp_path):
    ax = draw()
    save(ax, tmp_path / "a.png")
    (legend,) = ax.figure.legends
    for each in ax.figure.axes:
        assert not legend.get_window_extent().overlaps(each.get_tightbbox())


def test_trials_and_datapoints_have_integer_ticks():
    histogram, *_ = plots.histogram(np.arange(6.0), np.zeros((6, 5)))
    assert all(float(tick).is_integer() for tick in histogram.get_yticks())
    assert all(float(tick).is_integer() for tick in plots.search([0, 1, 2], [-3.0, -1.0, -2.0]).get_xticks())


def test_long_options_of_a_sweep_are_written_in_full(tmp_path):
    options = "network.hidden=[500,200] likelihood=discretized_logistic guide=full_covariance"
    ax = plots.comparison({options: [1.0], "all": [2.0]}, [1.0, 2.0], [np.nan, np.nan])
    assert ticks_of(ax.yaxis)[0].split() == options.split()
    assert ax.yaxis.get_ticklabels()[0].get_window_extent().x0 >= 0


def test_outliers_do_not_flatten_the_colours():
    x = torch.rand(500, 20)
    whole = x.min().item(), x.max().item()
    assert _limits(x) == whole
    x[0, :2] = torch.tensor([torch.nan, 1e6])
    low, high = _limits(x)
    assert 0 <= low < 0.01 < 0.99 < high <= 1
    rare = torch.zeros(500, 20)
    rare[0, 0] = 1
    assert _limits(rare) == (0, 1)
