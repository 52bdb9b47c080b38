"""Examples in docstrings run, and give what they show."""

import doctest
from importlib import import_module
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vae
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

PACKAGE = Path(pyro_vae.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "    >>> " in path.read_text()
]
SLOW = {"pyro_vae.sklearn"}


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of these models are hardly trained
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODULES]
)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pyro.set_rng_seed(0)
    vae = VAE.build([12], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal)
    names = {"vae": vae, "x": torch.bernoulli(torch.full((20, 12), 0.4)), "torch": torch, "pyro_vae": pyro_vae}
    with pyro.get_param_store().scope():
        failed, _ = doctest.testmod(import_module(name), extraglobs=names)
    assert failed == 0
