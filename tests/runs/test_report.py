"""What a run says of itself: bits per dimension, autoencoders, classes."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import every, one_error_line

from pyro_vae.analysis import Surgery
from pyro_vae.data import Split
from pyro_vae.marginal import Importance
from pyro_vae.runs import figures, plots
from pyro_vae.runs.build import build_vae
from pyro_vae.runs.config import compose

SHORT = [
    "network.hidden=[16]", "latent_dim=2", "trainer.max_epochs=2", "estimator=refined", "estimator.num_samples=20",
    "hydra.run.dir=run",
]  # fmt: skip


def results(tmp_path):
    return json.loads((tmp_path / "run" / "results.json").read_text())


def test_an_autoencoder_has_no_log_px_and_says_why(command, pictures, small_data, tmp_path):
    outcome = command("train", "+experiment=autoencoder", "data=array", small_data, *SHORT)
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    assert test["log_px"] is None
    assert test["elbo"] is None
    assert "q(z | x) has no density" in test["refused"]
    assert 0 < results(tmp_path)["reconstruction_error"] < 1
    for figure in ("samples", "reconstructions", "training", "latent", "manifold"):
        assert (tmp_path / "run" / "plots" / f"{figure}.png").stat().st_size > 1000
    for estimator in ("refined", "importance", "elbo", "ais", "prior"):
        one_error_line(command("evaluate", "run=run", f"estimator={estimator}"), "autoencoder", "log p(x) says nothing")


def test_reconstruction_error_is_the_mean_square_of_what_reconstruct_returns(command, small_data, tmp_path):
    import pyro_vae
    from pyro_vae.data import array

    assert command("train", "data=array", small_data, *SHORT).code == 0
    x = array(small_data.partition("=")[2], split_seed=0).test.x
    error = (pyro_vae.load("run").reconstruct(x) - x).square().mean().item()
    assert results(tmp_path)["reconstruction_error"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "offset"),
    every(
        2,
        [
            (["likelihood=gaussian", "data.binarize=none", "data.dequantize=true"], math.log2(17)),
            (["likelihood=categorical", "data.binarize=none"], 0.0),
            (["likelihood=bernoulli", "data.binarize=threshold"], 0.0),
            (["likelihood=gaussian", "data.binarize=none"], None),
            (["likelihood=bernoulli", "data.binarize=none"], None),
        ],
        several=True,
    ),
)
def test_bits_per_dim_of_probabilities_and_of_dequantized_densities(command, tmp_path, settings, offset):
    outcome = command("train", "data=digits", *settings, *SHORT)
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    if offset is None:
        assert "bits_per_dim" not in test
        return
    assert test["bits_per_dim"] == pytest.approx(-test["log_px"] / (64 * math.log(2)) + offset)
    assert "in bits per dimension" in outcome.out


def test_uniform_density_of_dequantized_data_is_worth_the_bits_of_the_grid():
    from types import SimpleNamespace

    from pyro_vae.runs.estimation import bits_per_dim

    likelihood = SimpleNamespace(discrete=False, check_observed=lambda x: None)
    vae = SimpleNamespace(data_shape=(7,), likelihood=likelihood, missingness=None)
    data = SimpleNamespace(dequantize=True, num_levels=256)
    assert bits_per_dim(0.0, vae, data, torch.zeros(3, 7)) == pytest.approx(8.0)
    vae.likelihood.discrete, data.dequantize = True, False
    assert bits_per_dim(-7 * math.log(2), vae, data, torch.full((3, 7), 0.5)) == pytest.approx(1.0)


def test_estimators_that_do_not_fit_are_refused_before_training(command, small_data, tmp_path):
    one_error_line(command("train", "data=array", small_data, *SHORT[:3], "estimator=exact"), "estimator=exact needs")
    one_error_line(command("train", "data=array", small_data, *SHORT[:3], "estimator=bdmc"), "estimator=bdmc simulates")
    many = [*SHORT[:3], "estimator=nuts", "estimator.max_data=3"]
    one_error_line(command("train", "data=array", small_data, *many), "estimator=nuts", "20 datapoints", "num_data=3")
    assert not list(tmp_path.glob("outputs/**/last.pt"))


def test_discrete_latents_suit_auto_but_not_refined(command, tmp_path):
    np.save("x.npy", np.random.default_rng(0).random((60, 4)))
    discrete = ["prior=categorical", "guide=enumerated", "objective=trace_elbo", "data=array", "data.path=x.npy"]
    options = [*discrete, "likelihood=gaussian", "latent_dim=3", "trainer.max_epochs=1", "hydra.run.dir=run"]
    one_error_line(command("train", *options, "estimator=refined"), "discrete", "estimator=auto")
    outcome = command("train", *options, "second_estimator=false", "plots=false")
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    assert (test["estimator"], test["unreliable"], test["stages"]) == ("auto", 0.0, {"guide": 1.0})
    assert "estimates are unreliable" not in outcome.out


@pytest.mark.parametrize(
    ("options", "over"),
    [
        (["prior=categorical", "guide=categorical", "objective=score_function"], "the values of z"),
        (["prior=class_conditional", "conditioning=prior"], "the quantiles of p(z | y), y = 0"),
        ([], "the quantiles of p(z)"),
    ],
)
def test_the_manifold_is_of_latents_that_the_prior_gives(options, over, tmp_path, monkeypatch):
    config = compose(["latent_dim=2", "network.hidden=[8]", *options])
    vae = build_vae(config, [6], num_classes=3)
    drawn = {}
    true_manifold = plots.manifold
    monkeypatch.setattr(plots, "manifold", lambda x, limits, over, _: drawn.update(x=x, over=over) or true_manifold(x))
    x, y = torch.rand(9, 6).round(), torch.arange(9) % 3
    figures.draw_run(vae, Split(x, y), [], tmp_path)
    assert drawn["over"] == over
    if over == "the values of z":
        np.testing.assert_allclose(drawn["x"], vae.decode(torch.eye(2).flip(0)), rtol=1e-6)
    assert (tmp_path / "latent.png").is_file()


def names(folder):
    return sorted(path.name for path in folder.glob("*"))


def test_a_run_without_estimate_figures_and_second_estimator(command, small_data, tmp_path):
    short = [*SHORT[:3], "hydra.run.dir=run", "data=array", small_data]
    outcome = command("train", *short, "estimator=none", "plots=false")
    assert outcome.code == 0, outcome.err
    test = results(tmp_path)["test"]
    assert math.isfinite(test["elbo"])
    assert {test[name] for name in ("log_px", "log_px_se", "ess_median", "unreliable")} == {None}
    assert (test["estimator"], test["num_data"]) == ("none", 20)
    assert "importance" not in results(tmp_path)
    assert 0 < results(tmp_path)["reconstruction_error"] < 1
    assert "log p(x), estimate" not in outcome.out
    assert "test, 20 datapoints (nats per datapoint)" in outcome.out
    assert not (tmp_path / "run" / "plots").exists()

    outcome = command("train", "resume=run", "estimator=importance", "++estimator.num_samples=30", "plots=true")
    assert outcome.code == 0, outcome.err
    assert results(tmp_path)["test"]["num_samples"] == 30
    assert "samples.png" in names(tmp_path / "run" / "plots")


@pytest.mark.parametrize("second", [True, False])
def test_the_second_estimate_may_be_left_out(command, small_data, tmp_path, second):
    outcome = command(
        "train", "data=array", small_data, *SHORT, f"second_estimator={str(second).lower()}", "plots=false"
    )
    assert outcome.code == 0, outcome.err
    assert ("importance" in results(tmp_path)) == second
    assert ("by importance, K = 1000" in outcome.out) == second


def test_the_first_estimate_outlives_an_interruption_of_the_second(command, small_data, tmp_path, monkeypatch):
    estimate = Importance.estimate

    def interrupted(self, *args):
        if type(self) is Importance:  # not those that derive from it
            raise KeyboardInterrupt
        return estimate(self, *args)

    monkeypatch.setattr(Importance, "estimate", interrupted)
    outcome = command("train", "data=array", small_data, *SHORT, "plots=false")
    assert outcome.code != 0
    assert math.isfinite(results(tmp_path)["test"]["log_px"])
    assert "importance" not in results(tmp_path)
    assert results(tmp_path)["config"]["seed"] == 0


@pytest.mark.parametrize("key", ["plots", "second_estimator"])
def test_what_is_neither_true_nor_false_is_refused_before_training(command, small_data, tmp_path, key):
    one_error_line(command("train", "data=array", small_data, *SHORT, f"{key}=3"), f"{key}=3", "true or false")
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_stages_after_the_last_epoch_are_told_in_order(command, small_data):
    lines = command("train", "data=array", small_data, *SHORT).out.splitlines()
    starts = [
        "epoch    2",
        "estimating log p(x) of 20 datapoints by refined, K = 20 ...",
        "test, 20 datapoints, estimator refined",
        "estimating log p(x) of 20 datapoints by importance, K = 1000 ...",
        "test, 20 datapoints, estimator importance",
        "reconstructing the test set ...",
        "reconstruction error",
        "drawing figures ...",
    ]
    told = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert told == sorted(told)


def test_evaluate_without_estimate_or_figures(command, small_run):
    one_error_line(command("evaluate", f"run={small_run}", "estimator=none"), "estimator=none", "analysis=surgery")
    one_error_line(command("evaluate", f"run={small_run}", "estimator=none", "analysis=gaps"), "estimator=none")
    outcome = command("evaluate", f"run={small_run}", "estimator=none", "analysis=surgery")
    assert outcome.code == 0, outcome.err
    assert names(small_run / "evaluations") == ["surgery.json", "surgery.png"]
    assert "log p(x)" not in outcome.out
    outcome = command(
        "evaluate",
        f"run={small_run}",
        "estimator=importance",
        "analysis=gaps",
        "num_data=5",
        "num_steps=5",
        "plots=false",
    )
    assert outcome.code == 0, outcome.err
    assert [path.name for path in (small_run / "evaluations").glob("*.png")] == ["surgery.png"]  # not gaps.png
    one_error_line(command("evaluate", f"run={small_run}", "plots=maybe"), "plots=maybe", "true or false")


def test_a_saturated_mutual_information_is_shown_as_a_bound(command, small_run, monkeypatch):
    parts = Surgery(
        elbo=-1.0, reconstruction=6.401, kl=7.401, mutual_information=6.901, mutual_information_at_limit=True,
        marginal_kl=0.5, active_units=2, latent_dim=2, num_data=1000,
    )  # fmt: skip
    monkeypatch.setattr("pyro_vae.analysis.surgery", lambda *args: parts)
    outcome = command("evaluate", f"run={small_run}", "estimator=none", "analysis=surgery")
    assert "the split has no more datapoints" in outcome.out  # of its 1000
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines() if line.startswith("  ")}
    assert rows["mutual_information"] == [">=", "6.901", ">=", "6.901"]
    assert rows["marginal_kl"] == ["<=", "0.500", "<=", "0.500"]
    assert rows["elbo"] == ["-1.000", "-1.000"]
    assert "note: 1000 datapoints are too few for I(x; z)" in outcome.out
    assert (
        json.loads((small_run / "evaluations" / "surgery.json").read_text())["test"]["mutual_information_at_limit"]
        is True
    )


def test_analyses_say_of_which_split_they_are(command, small_run):
    short = ["num_data=4", "num_steps=5", "plots=false", "estimator=elbo"]
    outcome = command("evaluate", f"run={small_run}", "analysis=all", *short)
    assert outcome.code == 0, outcome.err
    told = [line.partition(" ...")[0] for line in outcome.out.splitlines() if line.endswith(" ...")]
    for task in ("estimating log p(x) of 4 datapoints by elbo, K = 100", "fitting the guide's family", "ELBO surgery"):
        splits = [line.partition(": ")[0] for line in told if f": {task}" in line]
        assert [*dict.fromkeys(splits)] == ["train", "test"], told
    assert "estimating log p(x) of 4 datapoints by elbo, K = 100" in told  # the evaluation itself


def test_bdmc_warns_and_advises_what_is_not_set(command, small_run):
    short = ["estimator=bdmc", "estimator.num_samples=8", "estimator.num_temperatures=2", "num_data=10"]
    outcome = command("evaluate", f"run={small_run}", *short)
    assert outcome.code == 0, outcome.err
    summary = json.loads((small_run / "evaluations" / "bdmc-8.json").read_text())
    assert summary["split"] == "simulated"
    assert summary["unreliable"] == 1.0  # 8 samples are fewer than 10
    assert outcome.out.splitlines()[-1].endswith("set estimator.num_samples=32, then set estimator.num_temperatures=8")
    assert "  gap " in outcome.out
    assert "upper bound" in outcome.out
    assert summary["log_px_mc_se"] is None
