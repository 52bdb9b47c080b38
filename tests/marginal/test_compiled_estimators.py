"""Estimates through graphs are the estimates, on the same noise; and how much is worked on at once."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.compilation import backend
from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, BDMC, ELBO, Importance, Prior, Refined
from pyro_vae.programs.memory import pairs_at_once

ESTIMATORS = {
    "importance": lambda **options: Importance(100, chunk_size=64, **options),
    "prior": lambda **options: Prior(100, chunk_size=64, **options),
    "elbo": lambda **options: ELBO(100, chunk_size=64, **options),
    "refined": lambda **options: Refined(60, chunk_size=64, **options),
    "gaussian": lambda **options: Refined(60, chunk_size=64, family="gaussian", **options),
    "ais": lambda **options: AIS(4, 4, 1, start="guide", chunk_size=20, **options),
    "bdmc": lambda **options: BDMC(4, 6, 2, chunk_size=20, **options),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*list(ESTIMATORS)[:-1], pytest.param("bdmc", marks=pytest.mark.slow)])
def test_estimates_are_the_same(small_vae, name, monkeypatch):
    """11 datapoints: chunks of several sizes, each compiled when it comes a third time."""
    compiled = []
    monkeypatch.setattr(backend, "inductor", lambda graph, *_: compiled.append(graph) or graph)
    x = torch.arange(66).reshape(11, 6).double() % 3 % 2
    results = []
    for setting in (False, True):
        torch.manual_seed(0)
        results.append(ESTIMATORS[name](compile=setting)(small_vae.model, small_vae.guide, x))
    assert len(compiled) >= 1
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(results[1].se, results[0].se, rtol=1e-6, atol=1e-9)


def test_auto_compiles_what_has_taken_long(small_vae, monkeypatch):
    compiled = []
    monkeypatch.setattr(backend, "inductor", lambda graph, *_: compiled.append(graph) or graph)
    x = torch.zeros(8, 6).double()
    for seconds, several in ((1e9, False), (1e-9, True)):
        monkeypatch.setattr("pyro_vae.compilation.compiled.compile_seconds", lambda seconds=seconds: seconds)
        Importance(500, chunk_size=64)(small_vae.model, small_vae.guide, x)
        assert bool(compiled) is several


def test_inductor(small_vae):
    x = torch.arange(30).reshape(5, 6).double() % 2
    results = []
    for setting in (False, True):
        torch.manual_seed(0)
        results.append(Importance(200, chunk_size=40, compile=setting)(small_vae.model, small_vae.guide, x).log_px)
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("estimator", [Importance, Refined, AIS])
def test_refuses_bad_settings(estimator):
    for option, value in (("compile", "perhaps"), ("compile", 1), ("chunk_size", "many")):
        with pytest.raises(BadInput, match=f"^{option}={value}"):
            estimator(**{option: value})


def test_chunks_fill_the_cache(monkeypatch):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Bernoulli(x.new_full(x.shape, 0.5)).to_event(x.dim() - 1), obs=x)

    def of_levels(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Categorical(logits=x.new_zeros(*x.shape, 256)).to_event(x.dim() - 1), obs=x)

    before = torch.get_rng_state()
    assert pairs_at_once(77, model, torch.zeros(3, 5)) == 77
    assert pairs_at_once("auto", model, torch.zeros(3, 28, 28)) == 4096  # 784 · 4 bytes each: 5349, rounded down
    assert pairs_at_once("auto", model, torch.zeros(3, 28, 28).double()) == 2048
    assert pairs_at_once("auto", model, torch.zeros(3, 1)) == 2**18
    assert pairs_at_once("auto", model, torch.zeros(3, 10**5)) == 2**8
    assert pairs_at_once("auto", of_levels, torch.zeros(3, 8, 8)) == 2**8  # 64 · 256 · 4 bytes each
    # whatever the cache, no tensor of more than 256 MiB
    assert pairs_at_once("auto", of_levels, torch.zeros(3, 40, 40)) == 2**7
    monkeypatch.setattr("pyro_vae.programs.memory.LARGEST", 2**20)
    assert pairs_at_once("auto", model, torch.zeros(3, 10**7)) == 1
    assert torch.equal(torch.get_rng_state(), before)
