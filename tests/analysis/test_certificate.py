"""Certificates of estimators: right ones pass, wrong ones are told by how much they are off."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import make_ppca, one_error_line

from pyro_vae.analysis import Certificate, certificate
from pyro_vae.errors import BadInput
from pyro_vae.marginal import BDMC, NUTS, Exact, NoEstimate


class TooLow(Exact):
    """Exact estimates, of which the first `count` are too low by `by` nats."""

    def __init__(self, by, count):
        super().__init__()
        self.by, self.count = by, count

    def estimate(self, model, guide, x, y, progress):
        evidence = super().estimate(model, guide, x, y, progress)
        return replace(evidence, log_px=evidence.log_px - self.by * (torch.arange(len(x)) < self.count))


@pytest.mark.parametrize(
    ("by", "count", "within", "biased"), [(0.0, 0, 1.0, 0.05), (0.3, 6, 0.9, 0.6), (0.3, 60, 0.0, 1.0)]
)
def test_errors_are_found_and_bounded(by, count, within, biased):
    ppca = make_ppca()
    ppca.set_exact_guide(widen=1.3)
    found = certificate(
        ppca.vae.model, ppca.vae.guide, torch.zeros(60, 5).double(), TooLow(by, count), num_samples=3000
    )
    assert found.within == pytest.approx(within)
    assert found.gap_mean == pytest.approx(by * count / 60, abs=0.01)
    assert count / 60 * (by > 0.1) <= found.biased <= biased
    assert found.interval[0] <= within <= found.interval[1] + 1e-9


def test_the_interval_of_a_share_is_wilsons():
    scipy_stats = pytest.importorskip("scipy.stats")
    gap = torch.cat([torch.zeros(190), torch.full((10,), 0.5)]).double()
    found = Certificate(torch.zeros(200).double(), gap, torch.zeros(200, dtype=torch.bool))
    expected = scipy_stats.binomtest(190, 200).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert "95.0 % of 200 simulated datapoints have log p(x) within 0.1 nats" in str(found)


def test_estimates_that_are_not_finite_are_not_within():
    log_px = torch.tensor([0.0, math.nan, -math.inf]).double()
    found = Certificate(log_px, torch.zeros(3).double(), torch.ones(3, dtype=torch.bool))
    assert found.within == pytest.approx(1 / 3)
    assert found.biased == 1.0


@pytest.mark.parametrize("estimator", [BDMC(), NoEstimate()])
def test_refuses_what_estimates_no_given_data(estimator, ppca):
    with pytest.raises(BadInput, match=f"estimator={estimator.name}"):
        certificate(ppca.vae.model, ppca.vae.guide, torch.zeros(3, 5).double(), estimator)


def test_refuses_more_datapoints_than_the_estimator_accepts(ppca):
    with pytest.raises(BadInput, match="certify tests 3 datapoints, but estimator=nuts accepts 2: set max_data=3"):
        certificate(ppca.vae.model, ppca.vae.guide, torch.zeros(3, 5).double(), NUTS(max_data=2))


@pytest.mark.slow
def test_the_command_writes_and_prints_it(command, small_run, monkeypatch):
    monkeypatch.setattr("pyro_vae.runs.analyses.CERTIFICATE_DATA", 30)  # more than the split has
    options = [
        "certify=true",
        "split=train",
        "num_data=2",
        "plots=false",
        "estimator=refined",
        "estimator.num_samples=300",
    ]
    outcome = command("evaluate", f"run={small_run}", *options)
    assert outcome.code == 0, outcome.err
    found = json.loads((small_run / "evaluations" / "certificate-refined-300.json").read_text())
    assert (found["num_data"], found["estimator"], found["settings"]["num_samples"]) == (30, "refined", 300)
    assert (found["split"], found["seed"]) == ("simulated", 0)
    assert found["within"] > 0.8
    assert f"certificate: {100 * found['within']:.1f} % of 30 simulated datapoints" in outcome.out
    one_error_line(command("evaluate", f"run={small_run}", "certify=true", "estimator=bdmc"), "simulates its own data")
    one_error_line(command("evaluate", f"run={small_run}", "certify=perhaps"), "certify")


def test_the_command_keeps_earlier_certificates(command, small_run, monkeypatch):
    monkeypatch.setattr("pyro_vae.runs.analyses.CERTIFICATE_DATA", 2)
    folder = small_run / "evaluations"
    before = set(folder.glob("*"))
    short = [f"run={small_run}", "certify=true", "num_data=2", "plots=false", "estimator.num_samples=20"]
    for others in (["estimator=importance"], ["estimator=prior"], ["estimator=prior", "seed=1"]):
        assert command("evaluate", *short, *others).code == 0
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("certificate*")}
    names = {"certificate-importance-20.json", "certificate-prior-20.json"}
    assert kept == names | {"simulated-2/certificate-prior-20.json"}
    assert not before & {folder / name for name in kept}


def test_the_command_refuses_too_many_datapoints_before_its_work(command, small_run):
    (small_run / "checkpoints" / "best.pt").unlink()  # not even read
    options = [f"run={small_run}", "certify=true", "estimator=nuts", "num_data=2"]
    one_error_line(command("evaluate", *options), "but estimator=nuts accepts 20: set estimator.max_data=200")


def test_the_share_that_may_be_biased_allows_for_two_standard_errors():
    gap = torch.tensor([0.0, 0.1, 0.2, 0.5]).double()
    found = Certificate(0 * gap, gap, gap > 9, tolerance=2.0)
    assert found.biased == pytest.approx((gap.mean() + 2 * gap.std() / 2).item() / 2)
