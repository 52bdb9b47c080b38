"""The contract of estimators: the members that each must have, and those with defaults."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pyro_vae.errors import BadInput
from pyro_vae.marginal import (
    AIS,
    BDMC,
    ELBO,
    NUTS,
    Auto,
    Estimator,
    Exact,
    Importance,
    NoEstimate,
    Prior,
    Refined,
    Sandwich,
)
from pyro_vae.marginal.estimator import require_estimator
from pyro_vae.runs.config import CONFIG_DIR, options_of

BUILT_IN = (AIS, BDMC, ELBO, NUTS, Auto, Exact, Importance, NoEstimate, Prior, Refined, Sandwich)


class Mine(Estimator):
    name, num_samples = "mine", 30

    def estimate(self, model, guide, x, y, progress):
        return Importance(self.num_samples).estimate(model, guide, x, y, progress)


def test_the_names_of_estimators_are_those_of_their_options():
    assert {each.name for each in BUILT_IN} == set(options_of()["estimator"])


def test_defaults_are_those_of_the_commands():
    for each in BUILT_IN:
        options = OmegaConf.load(CONFIG_DIR / "estimator" / f"{each.name}.yaml")
        parameters = inspect.signature(each).parameters  # maybe with some that only Python has
        for name in options.keys() - {"_target_"}:
            assert parameters[name].default == options[name], f"{each.name}: {name}"


def test_what_estimators_say_of_themselves():
    assert [each for each in BUILT_IN if each.simulates] == [BDMC]
    assert [each for each in BUILT_IN if not each.estimates] == [NoEstimate]


def test_an_estimator_of_ones_own_needs_a_name_a_size_and_a_method(small_vae):
    x = torch.rand(4, 6).round().double()
    estimator = require_estimator(Mine())
    assert (estimator.simulates, estimator.estimates, estimator.compile, estimator.advice()) == (
        False,
        True,
        "auto",
        None,
    )
    evidence = estimator(small_vae.model, small_vae.guide, x)
    assert evidence.num_samples == 30
    assert evidence.log_px.isfinite().all()


class Unnamed(Mine):
    name = None


class WithoutSize(Mine):
    num_samples = None


class Misnamed(Mine):
    name = 3


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Unnamed(), "estimator Unnamed has no `name`: set `name`, the string"),
        (Misnamed(), "estimator Misnamed has name=3: set `name`, the string"),
        (WithoutSize(), "estimator WithoutSize has no `num_samples`: set `num_samples`, the number"),
    ],
)
def test_a_member_that_is_missing_is_named(estimator, message, small_vae):
    with pytest.raises(BadInput, match=f"^{message}"):
        require_estimator(estimator)
    with pytest.raises(BadInput, match=f"^{message}"):
        estimator(small_vae.model, small_vae.guide, torch.zeros(2, 6).double())


def test_what_is_no_estimator_is_refused():
    with pytest.raises(BadInput, match="^estimator has type dict: give an instance of a class derived from"):
        require_estimator({"name": "mine"})


def test_a_class_without_estimate_is_named_by_python():
    class Empty(Estimator):
        name, num_samples = "empty", 1

    with pytest.raises(TypeError, match="estimate"):
        Empty()


def test_every_option_is_described():
    paths = list((Path(__file__).parents[2] / "conf/estimator").glob("*.yaml"))
    assert len(paths) > 5
    assert all(path.read_text().startswith("# ") for path in paths)


def test_no_estimate_accepts_an_experiments_settings_of_another_estimator(small_vae):
    evidence = NoEstimate(num_samples=20)(small_vae.model, small_vae.guide, torch.zeros(2, 6).double())
    assert evidence.elbo.isfinite().all()
    assert evidence.log_px.isnan().all()
