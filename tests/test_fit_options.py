"""Options of fit as Python values, experiments, callbacks, validation data."""

from __future__ import annotations

import signal
from functools import partial

import numpy as np
import pytest
import torch
from own_families import FixedScale, Linear, Tempered

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, LowRank
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE, BetaVAE, Trace_ELBO
from pyro_vae.priors import ClassConditional
from pyro_vae.runs import checkpoint, metrics
from pyro_vae.runs.options import configuration

RNG = np.random.default_rng(0)
X = (RNG.random((60, 6)) < 0.3).astype(np.float32)
Y = np.arange(60) % 3


def conditional_prior(latent_dim, **shapes):
    return ClassConditional(latent_dim, **shapes)


TINY = {"network": MLP([8]), "latent_dim": 2, "max_epochs": 2, "verbose": False}


def composed(experiment=None, overrides=(), values=(), **options):
    return configuration(options, dict(values), experiment, overrides)


# Experiments keep their own values


@pytest.mark.parametrize("given", [{"experiment": "hierarchical"}, {"overrides": ["+experiment=hierarchical"]}])
def test_an_experiment_keeps_its_layers(given):
    vae = pyro_vae.fit(X, **given, network=("mlp", {"hidden": [8], "upper_hidden": [4]}), max_epochs=1, verbose=False)
    assert vae.latent_dim == (50, 20)


def test_an_experiment_keeps_its_settings():
    small = {"network": MLP([8]), "max_epochs": 1, "verbose": False}
    vae = pyro_vae.fit(X, overrides=["+experiment=bernoulli_full_covariance"], **small)
    assert vae.posterior.off_diagonal_gain == pytest.approx(0.02 / 8**0.5)
    vae = pyro_vae.fit(X, overrides=["+experiment=em_ppca"], max_epochs=3, verbose=False)
    assert vae.latent_dim == (10,)
    assert len(vae.history) == 3


def test_an_option_that_is_given_drops_the_settings_of_the_experiments_own():
    config = composed("bernoulli_full_covariance", guide="diagonal")
    assert dict(config.guide) == {"_target_": "pyro_vae.guides.Diagonal"}
    assert composed("bernoulli_full_covariance", guide="full_covariance").guide.gain == 0.02
    assert composed("iwae").objective.num_particles == 50


def test_settings_of_an_experiments_data_are_not_for_x():
    with pytest.warns(UserWarning, match=r"ignores its data.counts=True") as caught:
        pyro_vae.fit(X, experiment="counts", likelihood="bernoulli", **TINY)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="data.counts"):
        config = composed("counts")
    assert "counts" not in config.data
    assert config.data.binarize == "none"


def test_values_given_win_over_the_experiment_and_overrides_over_them():
    values = {"trainer.max_epochs": 7, "latent_dim": (3, np.int64(2)), "optimizer.lr": np.float64(0.5), "seed": None}
    config = composed("hierarchical", ["trainer.max_epochs=5"], values)
    assert (config.trainer.max_epochs, config.latent_dim, config.optimizer.lr, config.seed) == (5, [3, 2], 0.5, 0)


# An option is a name, a name with settings, a class or an instance


@pytest.mark.parametrize(
    ("options", "section"),
    [
        ({"guide": ("low_rank", {"rank": 2})}, {"_target_": "pyro_vae.guides.LowRank", "rank": 2}),
        ({"guide": {"name": "low_rank", "rank": 2}}, {"_target_": "pyro_vae.guides.LowRank", "rank": 2}),
        ({"guide": (LowRank, {"rank": np.int64(2)})}, {"_target_": "pyro_vae.guides.LowRank", "rank": 2}),
        ({"guide": partial(LowRank, rank=2)}, {"_target_": "pyro_vae.guides.LowRank", "rank": 2}),
        ({"guide": (FixedScale, {"init_scale": 0.1})}, {"_target_": "own_families.FixedScale", "init_scale": 0.1}),
        ({"network": MLP([64])}, {"_target_": "pyro_vae.networks.MLP", "hidden": [64]}),
        ({"network": Linear(3)}, {"_target_": "own_families.Linear", "width": 3}),
        ({"objective": IWAE(5)}, {"_target_": "pyro_vae.objectives.IWAE", "num_particles": 5}),
        ({"objective": BetaVAE(2)}, {"_target_": "pyro_vae.objectives.BetaVAE", "beta": 2.0}),
        ({"objective": Trace_ELBO()}, {"_target_": "pyro_vae.objectives.Trace_ELBO"}),
        ({"objective": Tempered}, {"_target_": "own_families.Tempered"}),
    ],
)
def test_options_become_sections_of_the_configuration(options, section):
    (group,) = options
    assert dict(composed(**options)[group]) == section


class Forgetful:
    def __init__(self, width):
        self._hidden = width


def local_guide():
    class Local(Diagonal):
        pass

    return Local


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"guide": ("low_rank", {"rnk": 2})},
            "guide.rnk=2 does not apply to .*LowRank: choose one of rank",
        ),
        (
            {"guide": ("low_rank", {"rank": {1}})},
            "guide.rank=.1. cannot be used: .* a value of type set",
        ),
        ({"guide": ("low_rank", {"rank": "${seed}"})}, "guide.rank=.* cannot be used: .* the interpolation"),
        ({"guide": 3}, "guide=3 is unknown: choose one of categorical"),
        ({"guide": {"rank": 2}}, "guide=.* is unknown: choose one of categorical"),
        ({"guide": Diagonal(3, 2)}, r"guide=.* is an instance, .* give the class, or \(Diagonal, {...}\)"),
        ({"guide": local_guide()}, "guide=.* cannot be imported as .*: define it at the top level"),
        ({"guide": lambda h, d: None}, "guide=.* cannot be imported as .*<lambda>"),
        ({"guide": partial(LowRank, 3)}, "guide=.* has arguments by position: give them by name"),
        ({"network": Forgetful(3)}, r"network=.* has settings that cannot be read .*\(Forgetful, {...}\)"),
        ({"experiment": "banana"}, "experiment=banana is unknown: choose one of .*kingma_welling/mnist"),
        (
            {"guide": LowRank, "overrides": ["guide.gain=3"]},
            "guide=.*LowRank.* and the override guide.gain cannot be combined",
        ),
        ({"values": {"trainer.batch_size": 3}, "experiment": "em_ppca"}, "trainer.batch_size=3 does not apply to"),
    ],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(options, message):
    with pytest.raises(BadInput, match=f"^{message}") as caught:
        composed(**options)
    assert "\n" not in str(caught.value)


def test_ones_own_classes_train_and_load_with_trust(tmp_path):
    own = {"guide": (FixedScale, {"init_scale": 0.1}), "network": Linear(3), "objective": Tempered(3)}
    vae = pyro_vae.fit(X, **{**TINY, **own}, run_dir=tmp_path / "run")
    assert type(vae.posterior) is FixedScale
    with pytest.raises(BadInput, match="trust="):
        pyro_vae.load(tmp_path / "run")
    loaded = pyro_vae.load(tmp_path / "run", trust=["own_families.FixedScale", "own_families.Linear"])
    assert torch.equal(loaded.encode(X), vae.encode(X))


def test_options_as_values_give_what_overrides_give():
    one = pyro_vae.fit(X, guide=("low_rank", {"rank": 1}), objective=IWAE(3), **TINY)
    overrides = ["network.hidden=[8]", "guide=low_rank", "guide.rank=1", "objective=iwae", "objective.num_particles=3"]
    other = pyro_vae.fit(X, overrides=overrides, latent_dim=2, max_epochs=2)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    defaults = {"likelihood": "bernoulli", "guide": "diagonal", "lr": 1e-3, "batch_size": 100, "binarize": "none"}
    defaults |= {"prior": "standard_normal", "val_fraction": 0.1, "seed": 0, "device": "auto"}
    one, other = pyro_vae.fit(X, **TINY), pyro_vae.fit(X, **TINY, **defaults)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_any_type_of_guide_starts_from_its_conf_defaults():
    assert isinstance(pyro_vae.fit(X, guide="full_covariance", **TINY).posterior, FullCovariance)


# Labels


def test_labels_need_a_use(tmp_path):
    with pytest.raises(BadInput, match='y is given, .*conditioning="prior" or "concat"'):
        pyro_vae.fit(X, Y, **TINY)
    for options in ({"conditioning": "concat"}, {"prior": "class_conditional"}):
        with pytest.raises(BadInput, match="this model is conditional: give y"):
            pyro_vae.fit(X, **options, **TINY)
        assert pyro_vae.fit(X, Y, **options, **TINY).num_classes == 3
    assert pyro_vae.fit(X, y=Y, overrides=["conditioning=prior"], **TINY).num_classes == 3
    assert pyro_vae.fit(X, Y, prior=conditional_prior, **TINY).num_classes == 3
    with pytest.raises(BadInput, match="conditioning=label is unknown: choose one of none, prior, concat"):
        pyro_vae.fit(X, Y, conditioning="label", **TINY)


# Validation data


def test_validation_data_choose_the_best_epoch():
    """All of x is trained on; the bound of other data is another."""
    one = pyro_vae.fit(X, validation_data=X[:20], **TINY)
    other = pyro_vae.fit(X, validation_data=1 - X[:20], **TINY)
    none = pyro_vae.fit(X, val_fraction=0, **TINY)
    assert one.history.column("train/elbo") == other.history.column("train/elbo") == none.history.column("train/elbo")
    assert one.history.column("val/elbo")[-1] > other.history.column("val/elbo")[-1] + 1
    pyro_vae.fit(X, Y, conditioning="concat", validation_data=(X[:20], Y[:20]), **TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_data": X[:, :3]}, r"validation_data has shape \[60, 3\]: x has \[N, 6\]"),
        ({"validation_data": X * np.inf}, "validation_data holds"),
        ({"validation_data": (X, Y)}, "validation_data has labels, but x has none: give y"),
        ({"validation_data": X, "y": Y, "conditioning": "concat"}, "validation_data needs labels, as x has"),
        ({"validation_data": X, "val_fraction": 0.2}, "val_fraction=0.2 and validation_data exclude each other"),
        ({"validation_data": X, "overrides": ["data.val_fraction=0.2"]}, "data.val_fraction=0.2 and validation_data"),
    ],
)
def test_validation_data_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        pyro_vae.fit(X, **settings, **TINY)


def test_a_list_of_arrays_is_the_pair_and_a_list_of_rows_is_an_array():
    labelled = {"y": Y, "conditioning": "concat", **TINY}
    pair, same = (pyro_vae.fit(X, validation_data=kind((X[:20], Y[:20])), **labelled) for kind in (tuple, list))
    assert pair.history.column("val/elbo") == same.history.column("val/elbo")
    one, other = (pyro_vae.fit(X, validation_data=data, **TINY) for data in (X[:2], X[:2].tolist()))
    assert one.history.column("val/elbo") == other.history.column("val/elbo")


def test_none_is_no_callback_and_no_override():
    assert len(pyro_vae.fit(X, callbacks=None, overrides=None, **TINY).history) == 2


def test_an_instance_is_named_by_its_class():
    with pytest.raises(BadInput, match=r"^network=MLP and .* as in network=\(MLP, {...}\)$"):
        pyro_vae.fit(X, overrides=["network.hidden=[3]"], **TINY)


# Callbacks, history, Ctrl-C


def test_callbacks_get_each_row_and_may_end_the_training(tmp_path):
    seen, also = [], []

    def second(row):
        seen.append(row)
        row["epoch"] = -1  # its own copy
        return len(seen) == 3

    vae = pyro_vae.fit(X, **{**TINY, "max_epochs": 9}, callbacks=[also.append, second], run_dir=tmp_path / "run")
    assert [row["epoch"] for row in also] == [1, 2, 3]
    assert list(vae.history) == also
    assert metrics.read(tmp_path / "run") == also
    assert not vae.training
    stopped = pyro_vae.fit(X, **{**TINY, "max_epochs": 9}, callbacks=lambda row: np.float64(row["epoch"]) >= 2)
    assert len(stopped.history) == 2  # NumPy's True is as good as Python's
    with pytest.raises(BadInput, match="callbacks=3 must be a function"):
        pyro_vae.fit(X, **TINY, callbacks=3)


def interrupt(after):
    def callback(row):
        if row["epoch"] == after:
            signal.raise_signal(signal.SIGINT)

    return callback


def test_ctrl_c_returns_the_best_so_far(recwarn, tmp_path):
    vae = pyro_vae.fit(X, **{**TINY, "max_epochs": 9}, callbacks=interrupt(2), run_dir=tmp_path / "run")
    assert "interrupted after 2 of 9 epochs" in str(recwarn.list[-1].message)
    assert recwarn.list[-1].filename == __file__
    best = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.pt")["vae"]
    assert all(torch.equal(best[name], value) for name, value in vae.state_dict().items())
    recwarn.clear()
    pyro_vae.fit(X, experiment="em_ppca", latent_dim=2, verbose=False, callbacks=interrupt(2)).encode(X)
    assert "interrupted" in str(recwarn.list[-1].message)


def test_ctrl_c_before_the_first_epoch_is_not_swallowed(monkeypatch):
    def raises(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.training.trainer.Trainer.train_epoch", raises)
    with pytest.raises(KeyboardInterrupt):
        pyro_vae.fit(X, **TINY)


def test_generators_are_as_they_were_after_a_fit_that_was_interrupted():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    with pytest.warns(UserWarning, match="interrupted"):
        pyro_vae.fit(X, **TINY, callbacks=interrupt(1))
    assert (torch.rand(1), np.random.rand()) == expected


def test_the_data_have_the_levels_of_the_likelihood():
    x = torch.randint(0, 17, (60, 5))
    settings = {"latent_dim": 1, "max_epochs": 1, "verbose": False}
    vae = pyro_vae.fit(x, likelihood=("discretized_logistic", {"num_levels": 17}), **settings)
    twin = pyro_vae.fit(x / 16, likelihood="discretized_logistic", overrides=["data.num_levels=17"], **settings)
    torch.testing.assert_close(vae.encode(x), twin.encode(x / 16))
    assert vae.sample(50).mul(16).frac().abs().max() < 1e-5
