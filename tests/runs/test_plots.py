import numpy as np
import pytest
from PIL import Image

from pyro_vae.runs import figures, plots, stage_plots
from pyro_vae.runs.figures import save

ROWS = [{"epoch": e, "train/elbo": -100.0 / e, "val/elbo": -110.0 / e, "train/kl": float(e)} for e in range(1, 6)]


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


@pytest.mark.parametrize("shape", [(1500, 2), (1500, 8), (3, 9, 5000), (1, 500, 500), (10**5,)])
def test_large_data_make_no_large_figures(shape, tmp_path, monkeypatch):
    x = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    x = np.concatenate([x] * 16)
    monkeypatch.setattr(figures, "DPI", 30)
    for axes in (plots.samples(x), plots.reconstructions(x[:10], x[:10]), plots.histogram(np.arange(64.0), x)):
        figures.save(axes, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert max(picture.size) < 16 * figures.DPI
            assert np.asarray(picture.convert("L")).std() > 1


@pytest.mark.parametrize(("n", "D", "lines", "points"), [(500, 3000, 100, 500), (64, 784, 64, 500), (500, 12, 500, 12)])
def test_long_vectors_are_drawn_by_some_of_their_values(n, D, lines, points):
    x = np.arange(n * D, dtype=float).reshape(n, D)
    drawn = np.array(plots.samples(x).collections[0].get_segments())
    assert drawn.shape == (lines, points, 2)
    assert drawn[0, [0, -1], 0].tolist() == [0, D - 1]
    assert np.isin(drawn[..., 1], x).all()


def test_tile_leaves_out_pixels_of_large_images():
    x = np.arange(4000.0).reshape(1, 1, 4000).repeat(8, 1) / 4000
    picture = plots.tile(np.concatenate([x, x]), columns=2)
    assert picture.shape == (2, 2 * 1000 + 1)
    np.testing.assert_allclose(picture[:, :1000], x[0, ::4, ::4], rtol=1e-6)


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_training(rows, tmp_path):
    save(plots.training(rows), tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 5000


@pytest.mark.parametrize(("num_epochs", "whole"), [(2, True), (4, True), (20, False)])
def test_short_training_is_shown_whole(num_epochs, whole):
    """The training ELBO of the first epoch is far lower than what validation finds after it."""
    rows = [
        {**ROWS[0], "epoch": epoch, "train/elbo": -300.0 if epoch == 1 else -130.0, "val/elbo": -140.0 + epoch}
        for epoch in range(1, num_epochs + 1)
    ]
    elbo, _ = plots.training(rows)
    assert (elbo.get_ylim()[0] < -300) == whole


@pytest.mark.parametrize(("validated", "curves"), [(True, ["train/elbo", "val/elbo"]), (False, ["train/elbo"])])
def test_the_legend_names_the_curves_that_are_drawn(validated, curves):
    elbo, _ = plots.training([row if validated else {**row, "val/elbo": np.nan} for row in ROWS])
    assert [text.get_text() for text in elbo.get_legend().get_texts()] == curves


def test_epochs_are_labelled_by_integers():
    both = plots.training([{**ROWS[0], "epoch": epoch} for epoch in (1, 2, 3)])
    assert all(float(tick).is_integer() for ax in both for tick in ax.get_xticks())


def test_figures_of_evaluations_say_what_they_show():
    values = np.arange(9.0)
    assert plots.histogram(values, np.zeros((9, 5)))[0].get_title() == "log p(x) of 9 datapoints"
    assert plots.histogram(values, np.zeros((9, 5)), name="ELBO")[0].get_title() == "ELBO of 9 datapoints"
    assert plots.curve([1, 10], [-3.0, -2.0], [None, 0.3], "ELBO").get_title().startswith("ELBO, estimated from")
    assert plots.bounds(values, values, simulated=True)[0].get_title() == "Bounds on log p(x) of simulated data"


def test_datapoints_are_counted_in_integers():
    values = np.arange(20.0)
    figures_of_20 = plots.bounds(values, values), stage_plots.lower_bounds(*[values] * 4, ["reliable"] * 20)
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
        assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("y", [None, np.arange(30) % 3, np.arange(30), np.zeros(30)])
def test_latent(y, tmp_path):
    save(plots.latent(np.random.default_rng(0).normal(size=(30, 2)), y), tmp_path / "latent.png")
    assert (tmp_path / "latent.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("k", "threshold", "labels"),
    [
        ([0.9, 0.1, 0.5], 0.63, ["lowest Pareto k: 0.10", "highest Pareto k: 0.90, unreliable above 0.63"]),
        ([np.nan] * 3, None, ["lowest share of the largest weight", "highest share of the largest weight"]),
    ],
)
def test_tails_tell_which_pareto_k_is_too_high_and_none_that_is_unknown(k, threshold, labels):
    ax = plots.tails(np.log([[0.5, 0.2, 0.3], [0.1, 0.1, 0.1]]), np.array(k), threshold)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [legend[0], legend[-1]] == labels
    assert not any("nan" in text for text in legend)


def test_channels_of_a_series_are_drawn_one_after_the_other():
    ax = plots.samples(np.broadcast_to([0.0, 1.0], (3, 1500, 2)))
    for line in ax.collections[0].get_segments():
        assert (np.diff(line[:, 1]) != 0).sum() == 1
