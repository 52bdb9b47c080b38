"""Integers are kept where the likelihood is one of integers."""

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data import array, from_array
from pyro_vae.data.units import units_of
from pyro_vae.errors import BadInput
from pyro_vae.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
)

LEVELS = np.random.default_rng(0).integers(0, 8, (60, 6))
OPTIONS = {
    "network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 1, "batch_size": 20, "verbose": False,
}  # fmt: skip
DTYPES = [np.int64, np.int8, np.uint16, np.uint8]


def values(x, **settings):
    return torch.cat([from_array(x, **settings).split(name).x for name in ("train", "val", "test")])


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_are_kept_bytes_too(dtype):
    expected = values(LEVELS.astype(np.float32))
    assert torch.equal(values(LEVELS.astype(dtype), integers="counts"), expected)
    assert torch.equal(values(torch.from_numpy(LEVELS.astype(dtype)), integers="counts"), expected)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_levels_are_on_the_grid_and_other_integers_are_numbers(dtype):
    x = LEVELS.astype(dtype)
    torch.testing.assert_close(values(x, integers="levels", num_levels=8), values((LEVELS / 7).astype(np.float32)))
    assert torch.equal(values(x), values(LEVELS.astype(np.float32)))


def test_bytes_are_grey_values_elsewhere():
    for integers in ("values", "levels"):
        assert torch.equal(
            values(LEVELS.astype(np.uint8), integers=integers), values((LEVELS / np.float32(255)).astype(np.float32))
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_are_read_as_memory(dtype, tmp_path):
    x = LEVELS.astype(dtype)
    np.save(tmp_path / "x.npy", x)
    for integers in ("values", "counts", "levels"):
        settings = {"integers": integers, "num_levels": 8}
        data = array(str(tmp_path / "x.npy"), **settings)
        assert torch.equal(data.train.in_memory().x, from_array(x, **settings).train.x)


def test_likelihoods_tell_what_integers_are():
    assert Bernoulli([2]).units == Gaussian([2]).units == units_of("values") == (255, 1)
    assert Poisson([2]).units == NegativeBinomial([2]).units == (1, 1)
    assert Categorical([2], 5).units == DiscretizedLogistic([2], 5).units == (255, 4)
    with pytest.raises(BadInput, match="integers=bits"):
        units_of("bits")


@pytest.mark.parametrize(
    ("likelihood", "settings", "divisor"),
    [
        ("poisson", {}, 1),
        ("negative_binomial", {}, 1),
        ("gaussian", {}, 1),
        ("categorical", {"overrides": ["data.num_levels=8"]}, 7),
        ("discretized_logistic", {"overrides": ["data.num_levels=8"]}, 7),
    ],
)
def test_fit_and_the_methods_read_integers_alike(likelihood, settings, divisor):
    vae = pyro_vae.fit(LEVELS, likelihood=likelihood, **settings, **OPTIONS)
    floats = (LEVELS / divisor).astype(np.float32)
    same = pyro_vae.fit(floats, likelihood=likelihood, **settings, **OPTIONS)
    torch.testing.assert_close(vae.encode(LEVELS), same.encode(floats))
    torch.testing.assert_close(vae.encode(torch.from_numpy(LEVELS)), vae.encode(floats))


def test_bits_of_any_type_are_binary_data_and_other_integers_are_not():
    bits = LEVELS > 3
    vae = pyro_vae.fit(bits, **OPTIONS)
    for dtype in (bool, np.int64, np.int8):
        assert torch.equal(vae.encode(bits.astype(dtype)), vae.encode(bits.astype(np.float32)))
    with pytest.raises(BadInput, match=r"likelihood=bernoulli needs values in \[0, 1\], the data span \[0, 7\]"):
        pyro_vae.fit(LEVELS, **OPTIONS)


def test_the_command_reads_bytes_as_counts(command, tmp_path):
    np.save(tmp_path / "x.npy", LEVELS.astype(np.uint8))
    arguments = ["data=array", "network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1",
                 "estimator=importance", "estimator.num_samples=5", "plots=false"]  # fmt: skip
    outcome = command("train", *arguments, "likelihood=poisson", f"data.path={tmp_path / 'x.npy'}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    outcome = command("evaluate", "run=run", "estimator=importance", "estimator.num_samples=5", "plots=false")
    assert outcome.code == 0, outcome.err
