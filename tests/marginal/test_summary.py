import json
import math
from dataclasses import replace

import pytest
import torch

from pyro_vae.marginal import LogEvidence
from pyro_vae.marginal.summary import summarize, table, verdict


def test_means_and_standard_errors():
    evidence = LogEvidence(
        log_px=torch.tensor([1.0, 2.0, 6.0]),
        se=torch.tensor([0.3, 0.4, 1.2]),
        ess=torch.tensor([5.0, 7.0, 100.0]),
        pareto_k=torch.tensor([0.1, 0.9, -0.2]),
        elbo=torch.tensor([0.0, 1.0, 2.0]),
        num_samples=100,
        extra={"acceptance": torch.tensor([0.4, 0.5, 0.6])},
    )
    assert evidence.unreliable.tolist() == [True, True, False]  # by ESS; by k and ESS
    summary = summarize(evidence, "importance")
    assert summary == pytest.approx(
        {
            "elbo": 1.0,
            "log_px": 3.0,
            "log_px_se": math.sqrt(7 / 3),
            "log_px_mc_se": 1.3 / 3,
            "estimator": "importance",
            "num_samples": 100,
            "ess_median": 7.0,
            "ess_min": 5.0,
            "pareto_k_max": 0.9,
            "unreliable": 2 / 3,
            "num_data": 3,
            "acceptance": 0.5,
        }
    )
    assert "3 datapoints" in table(summary, "test")
    assert "1.528" in table(summary, "test")


def test_verdict_is_given_above_one_percent_and_names_a_better_estimator():
    summary = {"unreliable": 0.02, "estimator": "importance"}
    assert "2.0 %" in verdict(summary)
    assert "estimator=refined" in verdict(summary)
    assert verdict({**summary, "unreliable": 0.01}) is None
    assert verdict({**summary, "estimator": "elbo"}) is None  # a bound, not an estimate


def test_what_cannot_be_told_is_null_in_json():
    nan = torch.tensor([math.nan])
    one = LogEvidence(torch.tensor([1.0]), nan, torch.tensor([1.0]), nan, torch.tensor([1.0]), 1)
    summary = summarize(one, "importance")
    assert summary["log_px_se"] is summary["log_px_mc_se"] is summary["pareto_k_max"] is None
    json.dumps(summary, allow_nan=False)
    assert " - " in table(summary, "test")


def test_what_is_no_number_is_unreliable():
    log_px = torch.tensor([-1.0, -math.inf, math.nan]).double()
    well = torch.full_like(log_px, 100.0)
    evidence = LogEvidence(log_px, 0 * well, well, 0 * well, log_px, 200)
    assert evidence.unreliable.tolist() == [False, True, True]
    assert "66.7 %" in verdict(summarize(evidence, "importance"))


def test_an_error_that_one_sample_cannot_tell_is_not_zero():
    def of(K, se):
        return LogEvidence(*(torch.full((3,), v).double() for v in (-1.0, se, 50.0, 0.0, -2.0)), K)

    lines = table(summarize(replace(of(100, 0.3), curve=(of(1, math.nan), of(10, 0.6))), "importance"), "test")
    assert "from the first 1 samples, ± -\n" in lines
    assert "from the first 10 samples, ± 0.346" in lines + "\n"  # 0.6 / √3


def test_evidence_is_shown_in_a_line():
    k = torch.tensor([0.1, 0.9])
    evidence = LogEvidence(torch.tensor([-1.0, -3.0]), k, k + 20, k, torch.tensor([-2.0, -4.0]), 7)
    assert repr(evidence) == "LogEvidence(N=2, K=7, log_px=-2.000, elbo=-3.000, unreliable=50.0%)"
