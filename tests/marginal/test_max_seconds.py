"""`auto` keeps to its time limit, and says which estimates it did not finish."""

from types import SimpleNamespace

import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Auto, auto, ledger


def test_a_time_limit_bounds_the_work_and_leaves_statuses_honest(small_vae, monkeypatch):
    """A clock on which the search of each block of 2 datapoints takes 10 s."""
    few = {"num_samples": 200, "num_starts": 4, "compile": False}
    x = torch.bernoulli(torch.full((8, 6), 0.5)).double()
    truth = Auto(**few)(small_vae.model, small_vae.guide, x)
    assert truth.status == ["reliable"] * 8
    now, search = [0.0], auto.search

    def slow(*args):
        now[0] += 10
        return search(*args)

    for module in (auto, ledger):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(auto, "search", slow)
    evidence = Auto(**few, chunk_size=2 * auto.BLOCK, max_seconds=25)(small_vae.model, small_vae.guide, x)
    assert now[0] == 30  # the block that was in work at the limit is finished
    assert evidence.stages == ["quadrature"] * 6 + ["guide"] * 2
    assert evidence.status == ["reliable"] * 6 + ["unreliable"] * 2
    assert evidence.extra["seconds"].tolist() == [5.0] * 6 + [0] * 2
    assert (evidence.log_px - truth.log_px)[:6].abs().max() < 1e-3
    assert evidence.log_px.isfinite().all()
    assert (evidence.extra["log_px_lower"] <= truth.log_px + 1e-3).all()


@pytest.mark.parametrize("value", [0, -1, "soon"])
def test_a_time_limit_is_positive(value):
    with pytest.raises(BadInput, match=f"max_seconds={value}"):
        Auto(max_seconds=value)
