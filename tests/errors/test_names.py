"""Python's errors name the parameter; a configuration's name the key."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from pyro_vae.errors import BadInput, FailedRun, in_section, positive, true_false, true_false_auto
from pyro_vae.guides import LowRank
from pyro_vae.likelihoods import Gaussian
from pyro_vae.marginal import Importance
from pyro_vae.priors import Mixture
from pyro_vae.runs.build import instantiate
from pyro_vae.runs.config import CONFIG_DIR, options_of

ARGUMENTS = {"guide": (8, 2), "prior": (2,), "likelihood": ([12],)}


def settings(*groups: str) -> list[tuple[str, str, str]]:
    """Each setting of the options in conf/ that is a number or true or false."""
    found = []
    for group in groups:
        for name in options_of()[group]:
            option: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml"))
            found += [(group, name, k) for k, v in option.items() if isinstance(v, (bool, int, float)) and k[0] != "_"]
    return found


@pytest.mark.parametrize(
    ("group", "name", "key"), settings("network", "prior", "likelihood", "guide", "objective", "trainer", "estimator")
)
def test_a_configured_object_calls_each_setting_by_its_key(group, name, key):
    option = OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml")
    config = OmegaConf.create({"data": {"num_levels": 256}, "trainer": {"batch_size": 5}, group: option})
    config[group][key] = "banana"
    with pytest.raises(BadInput, match=f"^{group}.{key}=banana "):
        instantiate(config, group, *ARGUMENTS.get(group, ()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Importance, 0), "num_samples=0 must be an integer of at least 1"),
        (partial(LowRank, 8, 2, rank=0), "rank=0 must be"),
        (partial(Mixture, 2, num_components=0), "num_components=0 must be"),
        (partial(Gaussian, [12], init_scale=-1), "init_scale=-1 must be"),
    ],
)
def test_python_calls_it_by_the_parameter(make, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        make()


@pytest.mark.parametrize("kind", [BadInput, FailedRun])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("size=0 must exceed min_size=1", "data.size=0 must exceed data.min_size=1"),
        ("path is missing: give path=FILE", "data.path is missing: give data.path=FILE"),
        ("data.size=0 with trainer.path=3", "data.size=0 with trainer.path=3"),
        ("path=/a/size=3/b-size=4.npy is empty", "data.path=/a/size=3/b-size=4.npy is empty"),
        ("its size is 3, resize=4", "its size is 3, resize=4"),
    ],
)
def test_only_the_parameters_of_a_section_get_its_name(kind, message, expected):
    with pytest.raises(kind) as error, in_section("data", ["size", "min_size", "path"]):
        raise kind(message)
    assert str(error.value) == expected


def test_commands_call_settings_by_their_keys_when_the_data_show_that_they_do_not_fit(command, small_run, small_data):
    outcome = command("evaluate", f"run={small_run}", "estimator=nuts", "estimator.num_draws=2", "num_data=3")
    assert outcome.err == "error: estimator.num_draws=2 is too small for a covariance in 2 dimensions: raise it\n"
    outcome = command("train", "data=array", small_data, "data.val_fraction=0", "trainer.patience=3", "latent_dim=2")
    assert "error: trainer.patience and scheduler=plateau watch" in outcome.err


def test_numbers_and_booleans_of_numpy_are_as_good_as_pythons():
    assert positive("lr", np.float32(0.5)) == 0.5
    assert positive("beta", np.int64(4)) == 4
    assert true_false("mean", np.bool_(True)) is True
    assert true_false_auto("compile", np.bool_(False)) is False
    for value in ("yes", 1, np.int64(1)):
        with pytest.raises(BadInput, match=r"mean=.* must be true or false"):
            true_false("mean", value)
    with pytest.raises(BadInput, match="lr=True must be"):
        positive("lr", np.bool_(True))
