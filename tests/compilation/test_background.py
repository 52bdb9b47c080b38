"""Another process leaves the code of graphs in inductor's cache."""

import random
import time

import pytest
import torch
from torch._dynamo.utils import counters

from pyro_vae.compilation.background import Background
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.kernels import Kernels


@pytest.mark.slow
@pytest.mark.parametrize("sound", [True, False])
def test_the_code_comes_from_the_cache_unless_the_process_has_failed(sound, monkeypatch):
    if not sound:
        monkeypatch.setattr("pyro_vae.compilation.background.CHILD", "raise SystemExit(1)")
    weight, number = torch.nn.Parameter(torch.ones(4, 4)), random.SystemRandom().random()

    @torch.no_grad()
    def fn(x):
        return torch.randn(x.shape) * weight * number + torch.tensor([1.0, 2, 3, 4]) + x

    x, compiled, background = torch.ones(9, 4)[:4], Compiled(fn, kernels=Kernels({})), Background()
    background.take_only(compiled, lambda: compiled(x))
    background.start()
    while not background.asks():
        time.sleep(0.01)
    noise = torch.get_rng_state()
    background.send()
    while not background.has_ended():
        time.sleep(0.01)
    assert torch.equal(torch.get_rng_state(), noise)
    before = counters["inductor"]["fxgraph_cache_hit"]
    background.finish()
    assert counters["inductor"]["fxgraph_cache_hit"] - before == sound
    torch.manual_seed(0)
    found = compiled(x)
    torch.manual_seed(0)
    torch.testing.assert_close(found, fn(x))
