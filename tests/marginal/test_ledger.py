"""The ledger of `auto`: new estimates replace old ones, unless they are not finite."""

import math

import pytest
import torch

from pyro_vae.marginal.evidence import STAGES
from pyro_vae.marginal.judge import judge
from pyro_vae.marginal.ledger import Ledger

ALL = torch.arange(2)


def weights(*means):
    """Log-weights of 1000 draws `[1000, 2]`, of which those of each datapoint have this log-mean."""
    noise = 0.1 * torch.randn(1000, len(means)).double()
    return noise - noise.logsumexp(0) + math.log(1000) + torch.tensor(means).double()


@pytest.fixture
def ledger():
    ledger = Ledger.empty(torch.zeros(2).double(), 1000, target_se=0.05)
    assert ledger.write(ALL, judge(weights(-3.0, -4.0)), "search", 0.0).tolist() == [False, False]
    return ledger


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_finite_estimate_stays_but_is_no_longer_reliable(ledger, value):
    before = ledger.evidence
    todo = ledger.write(ALL, judge(weights(value, -3.5)), "HMC", 0.0)
    evidence = ledger.evidence
    assert evidence.log_px.tolist() == pytest.approx([-3, -3.5])
    assert evidence.stages == ["search", "HMC"]
    assert evidence.extra["log_px_lower"][0] == before.extra["log_px_lower"][0]
    assert evidence.unreliable.tolist() == todo.tolist() == [True, False]
    assert (evidence.extra["seconds"] > before.extra["seconds"]).all()


def test_a_lower_estimate_replaces_a_higher_one(ledger):
    """Keeping the higher one would bias the estimates."""
    todo = ledger.write(ALL, judge(weights(-9.0, -3.0)), "HMC", 0.0)
    assert todo.tolist() == [True, False]  # the first is below the bound of the search: it has missed something
    assert ledger.evidence.log_px.tolist() == pytest.approx([-9, -3])
    assert (ledger.evidence.stage == STAGES.index("HMC")).all()


def test_an_estimate_that_is_not_finite_is_replaced():
    ledger = Ledger.empty(torch.zeros(2).double(), 1000, target_se=0.05)
    ledger.write(ALL, judge(weights(math.nan, -math.inf)), "search", 0.0)
    assert not ledger.evidence.log_px.isfinite().any()
    assert not ledger.write(ALL, judge(weights(-3.0, -4.0)), "HMC", 0.0).any()
    assert ledger.evidence.status == ["reliable"] * 2


def test_no_later_estimate_below_an_earlier_bound_is_reliable(ledger):
    for _ in range(3):
        assert ledger.write(ALL, judge(weights(-9.0, -4.0)), "more samples", 0.0).tolist() == [True, False]
    assert not ledger.write(ALL, judge(weights(-3.0, -4.0)), "AIS", 0.0).any()


def test_bounds_from_elsewhere_refute_estimates():
    ledger = Ledger.empty(torch.zeros(2).double(), 1000, target_se=0.05)
    ledger.raise_floor(ALL[1:], torch.tensor([-2.0]))
    ledger.raise_floor(ALL, torch.tensor([math.nan, -9.0]))
    found = judge(weights(-3.0, -4.0))
    assert ledger.refutes(ALL, found).tolist() == [False, True]
    assert ledger.refutes(ALL.flip(0), found).tolist() == [True, False]  # of datapoints 1 and 0
    assert ledger.write(ALL, found, "search", 0.0).tolist() == [False, True]
