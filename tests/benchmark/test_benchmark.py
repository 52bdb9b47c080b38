"""`python -m pyro_vae.benchmark`: who is timed when, and what is made of it. No test looks at how fast anything is."""

import json
import os
import random
import sys
import time
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from conftest import one_error_line

from pyro_vae.benchmark import __main__ as benchmark
from pyro_vae.benchmark import client, contenders, gemm, hand_written, memory, profile, report, session, works
from pyro_vae.benchmark.client import Failed, Spread, Timing, calibrate, rounds
from pyro_vae.benchmark.contenders import CONTENDERS, Contender
from pyro_vae.benchmark.session import Settings
from pyro_vae.benchmark.worker import serve
from pyro_vae.benchmark.works import Timed
from pyro_vae.data import image_folder
from pyro_vae.errors import FailedRun
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE, TraceMeanField_ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

SLEEPER = """
import os, time, warnings
from pyro_vae.benchmark.works import Timed

print("a library that prints when it is imported")

def works(ms=1.0, fails_at=None, exits=False, warns=None):
    calls = []

    def run(n):
        print("and when it runs")
        calls.append(n)
        if warns:
            warnings.warn(warns)
        if exits:
            os._exit(3)
        if len(calls) == fails_at:
            raise ValueError("no\\nluck")
        time.sleep(n * ms / 1000)

    return {"step_100": lambda x: Timed(run), "epoch": lambda x: Timed(run, len(x) / 100)}
"""


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """`session.measure` of contenders that sleep, from their options."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(client, "PAUSE", 0.0)

    def run(work, ours=False, num_rounds=3, on_piece=lambda: None, **options):
        rivals = {name: Contender("sleeper", given, ours=ours) for name, given in options.items()}
        with open(tmp_path / "workers.log", "w") as errors:
            return session.measure(work, rivals, Settings(num_rounds, 0.03, 0, None), errors, on_piece)

    return run


def test_ratios_are_those_of_the_times_spent(measure, tmp_path):
    pieces = []
    timings = measure("step_100", on_piece=lambda: pieces.append(1), short={"ms": 2}, long={"ms": 6})
    short, long = timings["short", "step_100"], timings["long", "step_100"]
    assert len(short.ms) == len(long.ms) == 3
    assert len(pieces) == 2 * (1 + 3)
    assert short.spread.median >= 2  # sleep never ends early
    assert 1.5 < long.ratio(short).median < 4.5
    assert long.repetitions < short.repetitions <= 15  # of 6 and of 2 ms in 30
    assert 0.002 <= short.first_seconds < 60
    assert short.peak_mib is None or 5 < short.peak_mib < 10_000
    assert "when it runs" in (tmp_path / "workers.log").read_text()  # not among the replies


def test_a_timing_follows_an_equal_run_that_is_not_timed(monkeypatch):
    calls, replies = [], []

    def run(n):
        calls.append(n)
        time.sleep(0.2 if len(calls) == 2 else 0.0)  # the first one sets up

    monkeypatch.setitem(sys.modules, "idler", SimpleNamespace(works=lambda: {"step_100": lambda x: Timed(run)}))
    requests = {"options": {}, "seed": 0, "num_threads": None}, {"repetitions": 7}
    serve("idler", [json.dumps({"work": "step_100", **request}) for request in requests], replies.append)
    assert calls == [1, 7, 7]
    assert replies[1]["seconds"] < 0.2


def test_an_epoch_is_timed_beside_its_own_steps(measure):
    timings = measure("epoch", ours=True, ours_one={"ms": 2})
    whole, step = timings["ours_one", "epoch"], timings["ours_one", "step_100"]
    assert whole.units == 100
    assert 50 < step.spread.median / whole.spread.median < 200  # both sleep 2 ms, one of them for 100 steps
    assert report.own_steps("epoch", timings)["ours_one"] == whole.ratio(step)
    saved = report.as_dict("epoch", timings, "ours_one")["contenders"]
    assert list(saved) == ["ours_one"]
    assert saved["ours_one"]["own_step_100"]["ratio"]["median"] == whole.ratio(step).median


def test_who_fails_is_reported_and_the_rest_goes_on(measure):
    timings = measure(
        "step_100",
        good={"ms": 1, "warns": "of nothing"},
        eager={"warns": "not compiled: ValueError: why"},
        at_once={"fails_at": 1},
        later={"ms": 40, "fails_at": 3},
        dies={"exits": True},
        unfit={"unknown": 1},
    )
    assert timings["good", "step_100"].failed is None
    assert timings["at_once", "step_100"].failed == timings["later", "step_100"].failed == "ValueError: no luck"
    assert timings["dies", "step_100"].failed == "its process ended with status 3, see workers.log"
    assert "TypeError" in timings["unfit", "step_100"].failed
    assert timings["eager", "step_100"].failed == "UserWarning: not compiled: ValueError: why"
    text = report.table("step_100", timings, report.baseline_of("step_100", timings, "at_once"), 3)
    assert "times good" in text
    assert "  later failed: ValueError: no luck" in text.splitlines()
    saved = report.as_dict("step_100", timings, "good")
    assert saved["contenders"]["dies"] == {"failed": timings["dies", "step_100"].failed}
    json.dumps(saved, allow_nan=False)


def test_every_round_calls_everyone_once_in_random_order():
    def order(seed):
        calls = []
        pieces = {name: lambda name=name: calls.append(name) for name in "abcdef"}
        rounds(pieces, 10, random.Random(seed))
        return [calls[i : i + 6] for i in range(0, 60, 6)]

    assert all(Counter(one) == Counter("abcdef") for one in order(0))
    assert len({tuple(one) for one in order(0)}) > 5
    assert order(0) == order(0) != order(1)


def test_who_fails_in_a_round_is_called_no_more():
    calls = []

    def fail():
        calls.append("fail")
        raise Failed("no")

    rounds({"fail": fail, "go": lambda: calls.append("go")}, 4, random.Random(0))
    assert Counter(calls) == {"fail": 1, "go": 4}


@pytest.mark.parametrize(("each", "n"), [(0.002, 150), (1e-6, 300_000), (0.25, 1), (7.0, 1)])
def test_repetitions_fill_the_time(each, n):
    most = []

    def run(n):
        most.append(n)
        return n * each

    assert calibrate(run, 0.3) == pytest.approx(n, rel=0.01)
    assert max(most) * each <= max(0.3 * 1.01, each)


def test_median_and_quartiles():
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(3.0, (2.0, 4.0))
    assert Spread.of([3.0]) == Spread(3.0, (3.0, 3.0))
    # round by round: a machine that is slow for a round is slow for both
    assert Timing(ms=[2.0, 40.0, 2.2]).ratio(Timing(ms=[1.0, 20.0, 1.1])).median == pytest.approx(2.0)


def flops(products):
    return sum(2 * a.numel() * b.shape[1] for a, b, _ in products)


def test_flops_of_the_floor():
    weights = 784 * 200 + 200 * 200 + 200 * 100 + 50 * 200 + 200 * 200 + 200 * 784
    # forward, gradient of the weights, gradient of the input, but for that of the first layer: 2 B m n each
    for batch in (1, 100):
        assert flops(gemm.step(batch)) == 2 * batch * (3 * weights - 784 * 200)
    encoder, decoder = 784 * 200 + 200 * 200 + 200 * 100, 50 * 200 + 200 * 200 + 200 * 784
    expected = 2 * 20 * (3 * encoder - 784 * 200) + 2 * 20 * 50 * 3 * decoder
    assert flops(gemm.step(20, num_particles=50)) == expected
    assert flops(gemm.forward([(7, *layer) for layer in works.DECODER])) == 2 * 7 * decoder
    for a, b, out in gemm.step(3):
        assert torch.mm(a, b).shape == out.shape


def test_the_floor_uses_the_fastest_kernel():
    def slow(a, b, out):
        time.sleep(0.002)
        torch.mm(a, b, out=out)

    def fast(a, b, out):
        torch.mm(a, b, out=out)

    product = torch.ones(2, 3), torch.ones(3, 4), torch.empty(2, 4)
    name, seconds = gemm.fastest(product, {"slow": slow, "fast": fast})
    assert (name, seconds < 0.002) == ("fast", True)
    assert torch.equal(product[2], torch.full((2, 4), 3.0))


def test_kernels_of_the_floor_agree():
    for a, b, out in gemm.step(3):
        expected = a.double() @ b.double()
        for kernel in gemm.kernels().values():
            kernel(a, b, out.fill_(torch.nan))
            torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=1e-4)


def test_peak_counts_two_operations_per_pair(monkeypatch):
    monkeypatch.setattr(gemm, "fastest", lambda product, among: ("one", 0.5))
    assert gemm.peak(1000) == {"gflops": pytest.approx(4.0), "kernel": "one", "size": 1000}


def test_ratios_to_numpyro_are_a_column():
    ms = {"torch": [4.0, 8.0], "NumPyro": [2.0, 4.0], "pyro_vae compiled": [1.0, 2.0], "Pyro": [8.0, 16.0]}
    timings = {(name, work): Timing(ms=times) for name, times in ms.items() for work in ("step_100", "program")}
    text = report.table("step_100", timings, "torch", 2)
    assert "times torch  " in text
    assert "times NumPyro" in text
    (ours,) = [line for line in text.splitlines() if "compiled" in line]
    assert ours.index("0.25 (") < ours.index("0.50 (")
    saved = report.as_dict("step_100", timings, "torch")["contenders"]
    assert saved["pyro_vae compiled"]["ratio_numpyro"]["median"] == 0.5
    assert report.table("step_100", timings, "NumPyro", 2).count("times NumPyro") == 1
    assert report.baseline_of("program", timings, "torch") == "Pyro"
    timings["NumPyro", "step_100"].failed = "why"
    assert "times NumPyro" not in report.table("step_100", timings, "torch", 2)
    assert "ratio_numpyro" not in report.as_dict("step_100", timings, "torch")["contenders"]["torch"]


def test_data_are_like_binarized_mnist():
    x, grey = works.data("step_1000", 0), works.data("epoch", 0)
    assert (x.shape, grey.shape) == ((1000, 784), (10_000, 784))
    assert set(np.unique(x)) == {0, 1}
    assert 0 <= grey.min() < grey.max() <= 1
    # standard errors: 5e-4 and 3e-4
    assert (grey == 0).mean() == pytest.approx(0.8, abs=0.002)
    assert x.mean() == pytest.approx(0.1, abs=0.002)
    assert [np.array_equal(x, works.data("step_1000", seed)) for seed in (0, 1)] == [True, False]


@pytest.mark.parametrize("name", [name for name, c in CONTENDERS.items() if c.package is None])
def test_contenders_do_what_the_table_says(name):
    contender = CONTENDERS[name]
    with pyro.validation_enabled():  # restored afterwards
        assert set(import_module(contender.module).works(**contender.options)) >= set(contender.works)


def test_the_model_by_hand_is_ours():
    ours = VAE.build([784], 50, MLP([200, 200], "tanh"), StandardNormal, Bernoulli, Diagonal)
    hand = hand_written.VAE()
    weights = [p for part in (ours.encoder, ours.posterior, ours.decoder) for p in part.parameters()]
    with torch.no_grad():
        for mine, its in zip(hand.parameters(), weights, strict=True):
            mine.copy_(its)
    x = torch.from_numpy(works.data("step_100", 0))
    for objective, loss in ((TraceMeanField_ELBO(), hand.loss), (IWAE(50), hand.iwae_loss)):
        its = objective.differentiable_loss(ours.model, ours.guide, x) / len(x)
        # of untrained decoders: the draws of z move them by far less
        assert loss(x).item() == pytest.approx(its.item(), rel=1e-3)


@pytest.mark.slow
def test_writes_numbers_and_figure_and_prints_the_table(command, pictures, tmp_path):
    outcome = command(
        "benchmark.__main__",
        "works=[step_100]",
        "contenders=[torch,GEMM floor]",
        "rounds=1",
        "seconds=0.01",
        "hydra.run.dir=run",
    )
    assert outcome.code == 0, outcome.err
    saved = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert (tmp_path / "run" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert saved["machine"]["threads"] == 1  # conftest.py's
    assert saved["settings"] == {"rounds": 1, "seconds": 0.01, "seed": 0, "num_threads": None}
    (work,) = saved["works"].values()
    assert work["baseline"] == "torch"
    assert work["contenders"]["torch"]["ratio"]["median"] == 1
    floor = work["contenders"]["GEMM floor"]
    assert floor["ratio"]["median"] == pytest.approx(floor["median"] / work["contenders"]["torch"]["median"])
    assert len(floor["ms"]) == 1
    assert floor["first_seconds"] > 0
    assert "failed" not in floor
    lines = outcome.out.splitlines()
    assert lines[0] == lines[-1] == f"run directory: {tmp_path / 'run'}"
    assert any("GEMM floor" in line and report.digits(floor["median"]) in line for line in lines)


@pytest.mark.parametrize(
    "override",
    [
        "works=[nonsense]",
        "works=[]",
        "contenders=nonsense",
        "baseline=nonsense",
        "rounds=0",
        "seconds=-1",
        "seed=-1",
        "num_threads=0",
        "profile=maybe",
        "nonsense=1",
    ],
)
def test_bad_input_is_one_line(command, override):
    one_error_line(command("benchmark.__main__", override), override.partition("=")[0])


def test_who_is_not_installed_is_left_out(command, monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    left, notes = benchmark.installed(["torch", "NumPyro"])
    assert list(left) == ["torch"]
    assert notes == ["NumPyro is not installed: pip install -e '.[benchmark]'"]
    one_error_line(command("benchmark.__main__", "contenders=[NumPyro]"), "NumPyro is not installed", "pip install")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not say what a process has held")
def test_memory_of_training(tmp_path, monkeypatch):
    sources = {"array, .npy": memory.Source(200, memory.mapped, ("data=array", "data.path={path}"))}
    monkeypatch.setattr(memory, "SOURCES", sources)
    monkeypatch.setattr(memory, "GROWTH", 2)
    pieces = []
    with open(tmp_path / "workers.log", "w") as errors:
        rows = memory.measure(0, errors, {}, lambda: pieces.append(1))
        assert len(pieces) == 2
        (row,) = rows.values()
        assert 100 < row["peak_mib"] < 5000
        assert 0.8 < row["peak_mib_grown"] / row["peak_mib"] < 1.25
        assert "array, .npy" in memory.table(rows)
        broken = memory.Source(5, memory.mapped, ("data=array", "data.path={path}"))
        with pytest.raises(FailedRun, match="exited with status 2: see workers.log"):
            memory.peak(broken, 5, 0, errors, {})
    assert "5 datapoints" in (tmp_path / "workers.log").read_text()


def test_profile_divides_the_time_by_cause():
    a = torch.randn(300, 300)

    def run(n):
        for _ in range(n):
            (a @ a).normal_().add_(1.0)

    row = profile.by_cause(run, 2.0, seconds=0.05)
    total = row.pop("total")
    assert sum(row.values()) == pytest.approx(total, rel=1.0)  # another process may interfere
    assert min(row.values()) >= 0
    for cause in ("matrix products", "random numbers", "other operations"):
        assert row[cause] > 0, cause
    assert row["Adam"] == 0
    lines = profile.table({"a": row, "b": {**row, "total": 1.25}}).splitlines()
    assert lines[1].split() == ["a", "b"]
    assert lines[-1].split() == ["total", "0.000", "1.250"]


@pytest.mark.slow
def test_profile_of_a_compiled_step(command, tmp_path):
    outcome = command("benchmark.__main__", "works=[step_100]", "profile=true", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    row = json.loads((tmp_path / "run" / "benchmark.json").read_text())["profile"]["step_100"]
    assert min(row["matrix products"], row["fused kernels"], row["Adam"], row["random numbers"]) > 0
    assert "matrix products" in outcome.out


def test_memorys_images_are_what_is_read(tmp_path):
    memory.images(tmp_path / "images", 30, np.random.default_rng(0))
    data = image_folder(str(tmp_path / "images"), size=28, channels=1, num_workers=0)
    assert data.num_classes == 10
    assert 0.4 < data.test.x.mean() < 0.6
