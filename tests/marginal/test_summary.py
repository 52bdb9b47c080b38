import json
import math
import re
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae.marginal import (
    AIS,
    BDMC,
    ELBO,
    NUTS,
    Auto,
    Exact,
    Importance,
    LogEvidence,
    NoEstimate,
    Prior,
    Refined,
)  # fmt: skip
from pyro_vae.marginal.evidence import STAGES, Accumulator, accumulate
from pyro_vae.marginal.pareto import MIN_SAMPLES
from pyro_vae.marginal.summary import CurvePoint, Summary, summarize, table, verdict


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
    assert summary.as_json() == pytest.approx(
        {
            "elbo": 1.0,
            "log_px": 3.0,
            "log_px_se": math.sqrt(7 / 3),
            "log_px_mc_se": None,
            "estimator": "importance",
            "num_samples": 100,
            "ess_median": 7.0,
            "ess_min": 5.0,
            "pareto_k_max": 0.9,
            "pareto_k_threshold": 0.5,
            "unreliable": 2 / 3,
            "num_data": 3,
            "acceptance": 0.5,
        }
    )
    assert "3 datapoints" in table(summary, "test")
    assert "1.528" in table(summary, "test")


def summary_of(unreliable, num_samples, pareto_k_threshold):
    values = dict.fromkeys(("elbo", "log_px", "log_px_se", "log_px_mc_se", "ess_median", "ess_min", "pareto_k_max"))
    return Summary(
        **values,
        estimator="importance",
        num_samples=num_samples,
        pareto_k_threshold=pareto_k_threshold,
        unreliable=unreliable,
        num_data=100,
    )


def test_the_keys_of_the_json_stay_and_come_in_order():
    """They are the contract of a run directory."""
    summary = replace(summary_of(0.0, 30, None), extra={"gap": 1.0}, simulated=True)
    always = [
        *("elbo", "log_px", "log_px_se", "log_px_mc_se", "estimator", "num_samples", "ess_median", "ess_min"),
        *("pareto_k_max", "pareto_k_threshold", "unreliable", "num_data", "gap"),
    ]
    assert list(summary.as_json()) == always
    whole = replace(summary, curve=(CurvePoint(1, -2.0, None),), given="y", bits_per_dim=0.5, stages={"search": 1.0})
    assert list(whole.as_json()) == [*always, "curve", "given", "bits_per_dim", "stages"]
    assert whole.as_json()["curve"] == [{"num_samples": 1, "log_px": -2.0, "log_px_mc_se": None}]
    assert "log p(x | y), estimate" in table(whole, "test")
    assert table(whole, "test").startswith("simulated, 100 datapoints, estimator importance, K = 30")


def test_verdict_is_given_above_one_percent_and_names_a_better_estimator():
    summary = summary_of(0.02, 1000, 0.67)
    assert "2.0 %" in verdict(summary, Importance())
    assert "estimator=auto" in verdict(summary, Importance())
    assert verdict(replace(summary, unreliable=0.01), Importance()) is None
    assert verdict(summary, ELBO()) is None  # a bound, not an estimate
    assert verdict(summary, Exact()) is None
    assert verdict(replace(summary, unreliable=None), NoEstimate()) is None


def test_few_good_estimates_bring_no_warning():
    """Log-normal weights with a standard error of 0.1 nats, from as many samples as AIS has by default."""
    log_w = 0.5 * torch.randn(AIS().num_samples, 3000, generator=torch.Generator().manual_seed(0)).double()
    summary = summarize(evidence_of(log_w), "ais")
    assert 0.01 < summary.unreliable < 0.05
    assert verdict(summary, AIS()) is None
    assert "7.0 %" in verdict(replace(summary, unreliable=0.07), AIS())


STEPS = "estimator.num_elbo_steps"


@pytest.mark.parametrize(
    ("estimator", "advice"),
    [
        (Refined(20), f"set estimator.num_samples=500, then {STEPS}=50, then {STEPS}=300, or compare"),
        (Refined(), f"set {STEPS}=50, then {STEPS}=300, or compare with estimator=ais"),
        (Refined(num_elbo_steps=50), f"set {STEPS}=300, or compare with estimator=ais"),
        (Refined(num_elbo_steps=300), "compare with estimator=ais"),
        (AIS(), "set estimator.num_temperatures=400"),
        (AIS(4, 10), "set estimator.num_samples=32, then set estimator.num_temperatures=40"),
        (BDMC(), "set estimator.num_temperatures=400"),
        (NUTS(), "use estimator=auto"),
        (Prior(), "use estimator=auto"),
        (Importance(1000), "use estimator=auto"),
        (Importance(10), "set estimator.num_samples=1000, or use estimator=auto"),
        (Importance(50), "set estimator.num_samples=1000, or use estimator=auto"),
        (Prior(150), "set estimator.num_samples=1500, or use estimator=auto"),
        (NUTS(50), "set estimator.num_samples=500, or use estimator=auto"),
        (AIS(50), "set estimator.num_temperatures=400"),
    ],
)  # fmt: skip
def test_advice_is_never_what_is_already_set(estimator, advice):
    K = estimator.num_samples
    summary = summary_of(0.3, K, None if K < MIN_SAMPLES else 0.6)
    said = verdict(summary, estimator)
    assert re.split("too low.*?: ", said)[1].startswith(advice), said
    for name, value in vars(estimator).items():
        assert f"estimator.{name}={value}" not in re.split(r"[ ,]+", said)


def evidence_of_a_guide(scale, K, N=1000):
    """Of p(z | x) = N(0, I₂) and log p(x) = 0, where q(z | x) has another mean and scale."""
    z = scale * torch.randn(K, N, 2, generator=torch.Generator().manual_seed(0)).double()
    z[..., 0] += 0.2
    log_p, log_q = dist.Normal(0.0, 1.0).log_prob(z), dist.Normal(torch.tensor([0.2, 0.0]), scale).log_prob(z)
    return evidence_of((log_p - log_q).sum(-1))


@pytest.mark.parametrize("K", [50, 100])
def test_with_few_samples_good_estimates_are_flagged_and_the_line_says_that_k_is_rough(K):
    few, enough = evidence_of_a_guide(0.95, K), evidence_of_a_guide(0.95, 200)
    assert few.log_px.abs().max() < 0.3
    assert few.unreliable.double().mean() > 0.05
    assert enough.unreliable.double().mean() < 0.02
    said = verdict(summarize(few, "importance"), Importance(K))
    assert "unreliable, and may be too low (Pareto k is rough with fewer than 200 samples): set est" in said
    assert "largest (rough with fewer than 200 samples)" in table(summarize(few, "importance"), "test")
    assert "rough" not in table(summarize(enough, "importance"), "test")


def test_nearly_equal_weights_do_not_make_an_estimate_reliable():
    """A guide narrower than the posterior misses its tails: some of its estimates are too low at an ESS of 0.9 K.

    So few weights do not tell which, but all datapoints together do.
    """
    evidence = evidence_of_a_guide(0.6, 21)
    wrong = (evidence.log_px < -0.3) & (evidence.ess > 0.9 * 21)
    assert wrong.sum() > 5
    assert summarize(evidence, "importance").unreliable > 0.3


DISCRETE = [(Importance(50), "=1000"), (Importance(5000), "=50000"), (Prior(50), "importance")]


@pytest.mark.parametrize(("estimator", "advice"), DISCRETE)
def test_estimates_of_discrete_latents_need_more_samples_not_fitted_proposals(estimator, advice):
    summary = summary_of(0.3, estimator.num_samples, None)
    assert advice in verdict(summary, estimator)
    assert "auto" not in verdict(summary, estimator)


def test_refined_is_helped_by_what_is_advised_before_by_more_samples():
    """Steep logits: the posterior is not an ellipsoid around its mode, which leaves all K draws on one side."""
    W = 3 * torch.randn(15, 10)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 10), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ W.T).to_event(1), obs=x)

    def flagged(**settings):
        estimator = Refined(**settings, compile=False)
        return estimator(model, poutine.block(model, hide=["x"]), x).unreliable.double().mean()

    x = torch.bernoulli((torch.randn(30, 10) @ W.T).sigmoid())
    assert flagged() > 0.5
    assert flagged(num_elbo_steps=300) < 0.2
    assert flagged(num_samples=2000) > 0.3


def test_what_cannot_be_told_is_null_in_json():
    nan = torch.tensor([math.nan])
    one = LogEvidence(torch.tensor([1.0]), nan, torch.tensor([1.0]), nan, torch.tensor([1.0]), 1)
    summary = summarize(one, "importance")
    assert summary.log_px_se is summary.log_px_mc_se is summary.pareto_k_max is None
    json.dumps(summary.as_json(), allow_nan=False)
    assert " - " in table(summary, "test")


def test_what_is_no_number_is_unreliable():
    log_px = torch.tensor([-1.0, -math.inf, math.nan]).double()
    well = torch.full_like(log_px, 100.0)
    evidence = LogEvidence(log_px, 0 * well, well, 0 * well, log_px, 200)
    assert evidence.unreliable.tolist() == [False, True, True]
    assert "66.7 %" in verdict(summarize(evidence, "importance"), Importance())


def evidence_of(log_w):
    """From all log-weights `[K, N]`."""
    return accumulate([log_w], [len(log_w)], Accumulator.log_mean)


def test_the_threshold_of_pareto_k_depends_on_k():
    """Weights u^(−0.6) have k = 0.6: too heavy for 100 of them, not for 100,000."""
    u = torch.rand(100_000, 40, generator=torch.Generator().manual_seed(0)).double()
    many, few = evidence_of(-0.6 * u.log()), evidence_of(-0.6 * u[:200].log())
    assert (many.k_threshold, few.k_threshold) == (0.7, pytest.approx(1 - 1 / math.log10(200)))
    assert many.unreliable.double().mean() < 0.1  # sd of k̂ is 1.6 / √949
    assert few.unreliable.double().mean() > 0.4
    assert few.criterion == "Pareto k > 0.57 or effective sample size < 10"
    assert "fails a check: Pareto k > 0.57 or effective" in table(summarize(few, "importance"), "test")


@pytest.mark.parametrize("K", [16, 20])
def test_what_so_few_samples_cannot_tell_is_not_printed_as_fine(K):
    evidence = evidence_of(0.3 * torch.randn(K, 50).double())
    assert evidence.k_threshold is None
    text = table(summarize(evidence, "ais"), "test")
    assert "Pareto k, largest (unknown: it needs 21 samples)" in text
    assert "fails a check: effective sample size < 10" in text
    assert "Pareto k >" not in text
    assert not summarize(evidence, "ais").unreliable


@pytest.mark.parametrize(("sigma", "known"), [(1.0, True), (3.5, False)])
def test_a_standard_error_is_given_only_if_it_covers_the_truth(sigma, known):
    """Weights exp(σ ε − σ²/2): log of their mean is 0. With σ = 3.5 their mean is nats too low, ± 0.02."""
    noise = torch.randn(500, 300, generator=torch.Generator().manual_seed(1)).double()
    evidence = evidence_of(sigma * noise - sigma**2 / 2)
    summary = summarize(replace(evidence, curve=(evidence,)), "importance")
    se, text = summary.log_px_mc_se, table(summary, "test")
    own_noise = evidence.se.square().sum().sqrt() / 300
    assert (abs(summary.log_px) < 4 * own_noise) == known
    assert (se is not None) == known
    assert (f"± {own_noise:.3f}" in text) == known
    assert ("(unknown: more than 10% are unreliable)" in text) == (not known)
    assert math.isfinite(summary.log_px_se)


def test_an_elbo_keeps_its_standard_error_whatever_the_weights():
    log_w = 4 * torch.randn(500, 300).double() - 8
    evidence = LogEvidence.cat([accumulate([log_w], [500], Accumulator.mean_log)])
    summary = summarize(evidence, "elbo")
    assert summary.unreliable is None
    assert evidence.pareto_k.min() > 0.7
    assert summary.log_px_mc_se == pytest.approx(4 / math.sqrt(500 * 300), rel=0.05)


def test_columns_have_meanings_and_one_datapoint_is_one():
    one = torch.tensor([0.5]).double()
    names = ("gap", "log_px_upper", "acceptance", "loc_error", "scale_ratio", "correlation")
    evidence = LogEvidence(-one, one, 100 * one, one, -one, 500, extra=dict.fromkeys((*names, "mine"), one))
    text = table(replace(summarize(evidence, "nuts"), bits_per_dim=1.0), "test")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert text.startswith("test, 1 datapoint, ")
    for name in (*names, "bits_per_dim"):
        assert "mean over datapoints" not in lines[name]
        assert len(lines[name].split()) > 4
    assert lines["mine"].endswith("mean over datapoints")
    assert "threshold" not in text


def test_without_an_estimate_the_bound_alone_is_shown(small_vae):
    x = torch.rand(30, 6).round().double()
    summary = summarize(NoEstimate()(small_vae.model, small_vae.guide, x), "none")
    assert summary.elbo == pytest.approx(ELBO(1000)(small_vae.model, small_vae.guide, x).elbo.mean().item(), abs=0.3)
    assert {getattr(summary, name) for name in ("log_px", "log_px_se", "ess_median", "pareto_k_max", "unreliable")} == {
        None
    }
    assert [line.split()[0] for line in table(summary, "test").splitlines()] == ["test,", "elbo"]
    json.dumps(summary.as_json(), allow_nan=False)


def test_an_error_that_one_sample_cannot_tell_is_not_zero():
    def of(K, se):
        return LogEvidence(*(torch.full((3,), v).double() for v in (-1.0, se, 50.0, 0.0, -2.0)), K)

    lines = table(summarize(replace(of(100, 0.3), curve=(of(1, math.nan), of(10, 0.6))), "importance"), "test")
    assert "from the first 1 sample\n" in lines
    assert "from the first 10 samples, ± 0.346" in lines + "\n"  # 0.6 / √3


def test_evidence_is_shown_in_a_line():
    k = torch.tensor([0.1, 0.9])
    evidence = LogEvidence(torch.tensor([-1.0, -3.0]), k, k + 20, k, torch.tensor([-2.0, -4.0]), 700)
    assert repr(evidence) == "LogEvidence(N=2, K=700, log_px=-2.000, elbo=-3.000, unreliable=50.0%)"


def of_stages(stage, reliable):
    one = torch.ones(len(stage)).double()
    extra = {"log_px_lower": -2 * one, "num_modes": 2 * one, "gain": 0 * one, "num_draws": one, "seconds": 0.5 * one}
    return LogEvidence(
        -one, 0.01 * one, 500 * one, 0.69 * one, -3 * one, 1000,
        extra=extra, reliable=torch.tensor(reliable), stage=torch.tensor([STAGES.index(name) for name in stage]),
    )  # fmt: skip


def test_stages_are_shares_in_the_json_and_a_line_of_the_table():
    evidence = of_stages(["search"] * 124 + ["more samples"] * 74 + ["HMC"] * 2, [True] * 200)
    summary = summarize(evidence, "auto")
    assert summary.as_json()["stages"] == {"search": 0.62, "more samples": 0.37, "HMC": 0.01}
    assert list(summary.as_json())[-1] == "stages"
    lines = {line.split()[0]: line for line in table(summary, "test").splitlines()}
    assert lines["stages"].split(maxsplit=1)[1] == "estimated by search 62 %, more samples 37 %, HMC 1.0 %"
    assert summary.as_json()["log_px_lower"] == -2
    assert "holds for each datapoint with 95 % confidence" in lines["log_px_lower"]
    assert lines["num_draws"].split()[1] == "1"
    for name in ("num_modes", "gain", "num_draws", "seconds"):
        assert "mean over datapoints" not in lines[name]
    assert "stages" not in summarize(evidence_of(torch.zeros(30, 2).double()), "importance").as_json()


def test_the_table_of_an_estimator_that_decides_has_its_verdict_in_words_not_thresholds():
    """Its estimates come from different numbers of samples, of which 0.69 is enough for 20,000."""
    good = summarize(of_stages(["more samples"] * 10, [True] * 10), "auto")
    text = table(good, "test")
    assert not {"ess_median", "ess_min", "pareto_k_max"} & {line.split()[0] for line in text.splitlines()}
    checks = "Pareto k, effective sample size, agreement of halves"
    assert f"share of datapoints whose estimate fails a check: {checks}" in text
    assert of_stages(["search"], [True]).criterion == checks
    assert "Pareto k >" not in text
    assert good.as_json()["pareto_k_max"] < good.as_json()["pareto_k_threshold"]
    assert verdict(good, Auto()) is None
    bad = summarize(of_stages(["AIS"] * 10, [False] * 5 + [True] * 5), "auto")
    assert bad.unreliable == 0.5
    assert verdict(bad, Auto()).endswith("likely too low: set estimator.num_starts=24, or estimator.num_samples=10000")
    assert verdict(bad, Auto(max_seconds=5)).endswith("likely too low: set estimator.max_seconds=null")
    assert verdict(good, Auto(max_seconds=5)) is None
    discrete = "set estimator.max_seconds=null"
    assert Auto(max_seconds=5).advice(discrete=True) == discrete
    assert Auto().advice(discrete=True) == "set estimator.num_samples=10000"


def test_the_elbo_is_not_called_log_px():
    log_w = torch.randn(50, 30).double()
    evidence = accumulate([log_w], [50], Accumulator.mean_log)
    summary = replace(summarize(evidence, "elbo"), bits_per_dim=1.0, given="y")
    lines = {line.split()[0]: line.split(maxsplit=2)[-1] for line in table(summary, "test").splitlines()}
    assert lines["log_px"] == "evidence lower bound, in place of log p(x | y)"
    assert lines["bits_per_dim"] == "-evidence lower bound in bits per dimension"
    assert "unreliable" not in lines  # a check of importance weights
    assert summary.unreliable is None
    assert summary.as_json()["is_bound"] is True
    assert "is_bound" not in summarize(accumulate([log_w], [50], Accumulator.log_mean), "importance").as_json()


@pytest.mark.parametrize(
    ("searched", "shown"), [([True, True], "2.000"), ([True, False], "2.000"), ([False] * 2, None)]
)
def test_modes_are_counted_where_they_were_searched(searched, shown):
    evidence = of_stages(["search" if each else "guide" for each in searched], [True] * 2)
    evidence.extra["num_modes"] *= torch.tensor(searched)
    summary = summarize(evidence, "auto")
    lines = {line.split()[0]: line.split() for line in table(summary, "test").splitlines()}
    assert {"num_modes", "gain"} <= summary.as_json().keys()
    if shown is None:
        assert not {"num_modes", "gain"} & lines.keys()
    else:
        assert lines["num_modes"][1] == shown


def test_exact_estimates_say_so(ppca):
    x = ppca.evidence.sample((4,))
    for estimator in (Exact(), Auto()):
        evidence = estimator(ppca.vae.model, ppca.vae.guide, x)
        summary = summarize(evidence, estimator.name)
        assert evidence.status == ["exact"] * 4
        assert (summary.stages, summary.unreliable, summary.log_px_mc_se) == ({"exact": 1.0}, 0.0, 0.0)
        assert "estimated by exact 100 %" in table(summary, "test")
        assert "nan" not in table(summary, "test")
        json.dumps(summary.as_json(), allow_nan=False)
