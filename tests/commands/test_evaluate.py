"""`python -m pyro_vae.evaluate`."""

import io
import json
from functools import partial

import numpy as np
import pytest
from conftest import SMALL, every, one_error_line

from pyro_vae.marginal import ELBO


@pytest.mark.slow
def test_all_analyses_include_gaps_of_several_sites(command, small_data, tmp_path):
    run = tmp_path / "hierarchical"
    small = [option for option in SMALL if not option.startswith("latent_dim")]
    assert command("train", *small, small_data, "latent_dim=[3,2]", f"hydra.run.dir={run}").code == 0
    evaluate = partial(command, "evaluate", f"run={run}", "estimator=importance", "estimator.num_samples=20")
    outcome = evaluate("analysis=all", "num_data=3", "plots=false")
    assert outcome.code == 0, outcome.err
    assert "no gaps" not in outcome.out + outcome.err
    assert (run / "evaluations" / "gaps.json").exists()
    assert (run / "evaluations" / "surgery.json").exists()


def test_the_estimator_is_built_once(command, small_run, monkeypatch):
    built, build = [], ELBO.__init__
    monkeypatch.setattr(ELBO, "__init__", lambda self, *args, **settings: built.append(build(self, *args, **settings)))
    options = ["estimator=elbo", "estimator.num_samples=3", "num_data=4", "plots=false"]
    assert command("evaluate", f"run={small_run}", *options).code == 0
    assert len(built) == 1


def test_data_may_have_moved(command, small_run, small_data, tmp_path):
    evaluate = partial(command, "evaluate", f"run={small_run}", "estimator=elbo", "estimator.num_samples=5")
    one_error_line(evaluate("data.path=nowhere.npy"), "nowhere.npy")
    one_error_line(evaluate("data.root=there"), "data.root=there", "leave it out")
    outcome = evaluate(small_data)
    assert outcome.code == 0, outcome.err
    np.save(tmp_path / "binary.npy", 1 - np.load(tmp_path / "binary.npy"))
    one_error_line(evaluate(small_data), "other datapoints")


@pytest.mark.parametrize("what", ["gaps", "all"])
def test_gaps_are_not_those_of_simulated_data(command, small_run, what):
    one_error_line(
        command("evaluate", f"run={small_run}", "estimator=bdmc", f"analysis={what}"), f"analysis={what}", "bdmc"
    )
    assert not (small_run / "evaluations").exists()


@pytest.mark.parametrize(
    ("name", "K"),
    every(2, [("refined", 60), ("elbo", 30), ("importance", 50), ("prior", 40), ("bdmc", 4), ("ais", 5)], several=True),
)
def test_writes_summary_and_arrays_and_prints_the_table(command, small_run, name, K):
    short = ["estimator.num_temperatures=10", "estimator.start=guide"] if name in ("ais", "bdmc") else []
    outcome = command("evaluate", f"run={small_run}", f"estimator={name}", f"estimator.num_samples={K}", *short)
    assert outcome.code == 0, outcome.err
    summary = json.loads((small_run / "evaluations" / f"{name}-{K}.json").read_text())
    arrays = np.load(small_run / "evaluations" / f"{name}-{K}.npz")
    assert ("row" in arrays) == (name != "bdmc")
    assert set(arrays) >= {"log_px", "se", "ess", "pareto_k", "unreliable"}
    assert all(arrays[key].shape == (20,) for key in arrays)
    assert summary["log_px"] == pytest.approx(arrays["log_px"].mean())
    assert summary["log_px_se"] == pytest.approx(arrays["log_px"].std(ddof=1) / np.sqrt(20))
    assert summary["ess_median"] == pytest.approx(np.sort(arrays["ess"])[9])
    assert (summary["estimator"], summary["num_samples"], summary["num_data"]) == (name, K, 20)
    assert f"{summary['log_px']:.3f}" in outcome.out
    results = json.loads((small_run / "results.json").read_text())["test"]
    assert set(results) - ({"baseline"} if name == "bdmc" else set()) <= set(summary)  # its data are simulated


def test_auto_is_the_default_and_tells_how_each_estimate_was_made(command, pictures, small_run):
    outcome = command("evaluate", f"run={small_run}")
    assert outcome.code == 0, outcome.err
    folder = small_run / "evaluations"
    arrays = np.load(folder / "auto-1000.npz")
    assert arrays["stage"].tolist() == ["quadrature"] * 20
    assert arrays["status"].tolist() == ["reliable"] * 20
    assert {"log_px_lower", "num_modes", "gain", "seconds"} < set(arrays)
    summary = json.loads((folder / "auto-1000.json").read_text())
    assert summary["stages"] == {"quadrature": 1.0}
    assert summary["log_px_lower"] == pytest.approx(arrays["log_px_lower"].mean())
    assert "estimated by quadrature 100 %" in outcome.out
    assert "unreliable, and" not in outcome.out
    for figure in ("stages", "bounds", "histogram"):
        assert (folder / f"auto-1000-{figure}.png").stat().st_size > 1500


def test_a_time_limit_that_is_over_at_once_leaves_estimates_that_are_called_unreliable(command, small_run):
    outcome = command("evaluate", f"run={small_run}", "estimator.max_seconds=1e-6")
    assert outcome.code == 0, outcome.err
    arrays = np.load(small_run / "evaluations" / "auto-1000.npz")
    assert set(arrays["stage"]) == {"guide"}
    assert set(arrays["status"]) == {"unreliable"}
    last = outcome.out.splitlines()[-1]
    assert last.startswith("warning: 100.0 % of the datapoints' estimates are unreliable")
    assert "set estimator.max_seconds=null" in last
    one_error_line(command("evaluate", f"run={small_run}", "estimator.max_seconds=0"), "estimator.max_seconds=0")


def test_is_repeatable_and_leaves_the_working_folder_alone(command, small_run, tmp_path):
    before = set(tmp_path.iterdir())
    outs = [
        command("evaluate", f"run={small_run}", "estimator=refined", "estimator.num_samples=10").out for _ in range(2)
    ]
    assert outs[0] == outs[1]
    assert set(tmp_path.iterdir()) == before


def test_split_and_num_data(command, small_run):
    assert command("evaluate", f"run={small_run}", "split=train", "num_data=7", "estimator=elbo").code == 0
    summary = json.loads((small_run / "evaluations" / "elbo-100.json").read_text())
    assert (summary["num_data"], summary["split"]) == (7, "train")


def test_evaluations_of_other_datapoints_are_kept(command, small_run):
    folder = small_run / "evaluations"
    evaluate = partial(command, "evaluate", f"run={small_run}", "estimator=importance")

    def files(within):
        return sorted(file.name for file in within.iterdir() if file.is_file())

    assert evaluate("estimator.num_samples=50").code == 0
    assert evaluate("estimator.num_samples=5", "num_data=9").code == 0
    of_5, content = [name for name in files(folder) if "-5." in name or "-5-" in name], files(folder)
    nine = (folder / "importance-5.json").read_bytes()
    outcome = evaluate("estimator.num_samples=5", "split=val", "num_data=7")
    assert outcome.code == 0, outcome.err
    assert f"kept: {folder / 'test-9' / 'importance-5.json'}" in outcome.out
    assert files(folder) == content
    assert files(folder / "test-9") == of_5
    assert len(of_5) >= 3  # .json, .npz and figures
    assert (folder / "test-9" / "importance-5.json").read_bytes() == nine
    assert json.loads((folder / "importance-5.json").read_text())["num_data"] == 7
    assert evaluate("estimator.num_samples=5", "split=val", "num_data=7").code == 0  # the same again replaces itself
    assert [d.name for d in folder.iterdir() if d.is_dir()] == ["test-9"]
    for seed in (1, 2):  # other settings
        assert evaluate("estimator.num_samples=5", "split=val", "num_data=7", f"seed={seed}").code == 0
    assert sorted(d.name for d in folder.iterdir() if d.is_dir()) == ["test-9", "val-7", "val-7-2"]
    seeds = [json.loads((folder / d / "importance-5.json").read_text())["seed"] for d in ("val-7", "val-7-2", ".")]
    assert seeds == [0, 1, 2]


def test_estimates_exceed_the_bound(command, small_run):
    for name in ("importance", "elbo", "prior"):
        command("evaluate", f"run={small_run}", f"estimator={name}", "estimator.num_samples=200")
    log_px = {
        name: json.loads((small_run / "evaluations" / f"{name}-200.json").read_text())["log_px"]
        for name in ("importance", "elbo", "prior")
    }
    assert log_px["elbo"] < log_px["importance"]
    assert log_px["elbo"] < log_px["prior"]


def test_a_curve_of_sample_sizes(command, pictures, small_run):
    outcome = command("evaluate", f"run={small_run}", "estimator=importance", "estimator.num_samples=[1,10,100]")
    assert outcome.code == 0, outcome.err
    summary = json.loads((small_run / "evaluations" / "importance-100.json").read_text())
    assert [point["num_samples"] for point in summary["curve"]] == [1, 10, 100]
    assert summary["curve"][-1]["log_px"] == summary["log_px"]
    assert summary["curve"][0]["log_px_mc_se"] is None
    for figure in ("curve", "histogram", "tails"):
        assert (small_run / "evaluations" / f"importance-100-{figure}.png").stat().st_size > 1500
    assert "from the first 10 samples" in outcome.out


def test_unreliable_estimates_are_warned_of_last_with_what_to_do(command, small_run):
    lines = command("evaluate", f"run={small_run}", "estimator=prior", "estimator.num_samples=5").out.splitlines()
    assert lines[-1].startswith("warning: 100.0 % of the datapoints' estimates are unreliable")
    assert "estimator=auto" in lines[-1]


def test_analysis(command, pictures, small_run):
    outcome = command(
        "evaluate",
        f"run={small_run}",
        "analysis=all",
        "num_data=15",
        "num_steps=20",
        "estimator=importance",
        "estimator.num_samples=50",
    )
    assert outcome.code == 0, outcome.err
    gaps = json.loads((small_run / "evaluations" / "gaps.json").read_text())
    surgery = json.loads((small_run / "evaluations" / "surgery.json").read_text())
    assert set(gaps) == set(surgery) == {"train", "test"}
    for row in gaps.values():
        total = row["log_px"] - row["elbo"]
        assert row["approximation_gap"] + row["amortization_gap"] == pytest.approx(total)
        assert row["num_data"] == 15
    for row in surgery.values():
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["mutual_information"] - row["marginal_kl"])
    assert (small_run / "evaluations" / "gaps.png").stat().st_size > 1500
    assert "amortization_gap" in outcome.out
    assert outcome.out.count("warning: posterior collapse") == 1  # after two epochs


def test_surgery_of_an_unconditional_model_is_not_within_labels(command, tmp_path):
    """A label tells x here: within one nothing is left for z to say of it."""
    y = np.arange(120) % 3
    np.savez(tmp_path / "x.npz", x=np.eye(3, dtype=bool).repeat(2, 1)[y], y=y)
    options = ["data=array", "data.path=x.npz", "data.label_key=y", "network.hidden=[16]", "latent_dim=2"]
    run = f"hydra.run.dir={tmp_path / 'run'}"
    short = ["trainer.max_epochs=30", "trainer.batch_size=20", "optimizer.lr=0.02", "estimator=elbo"]
    assert command("train", *options, *short, run).code == 0
    assert command("evaluate", "run=run", "analysis=surgery", "estimator=elbo").code == 0
    parts = json.loads((tmp_path / "run" / "evaluations" / "surgery.json").read_text())
    assert 0.2 < parts["train"]["mutual_information"] < np.log(96)


def test_exact_is_refused_for_nonlinear_models(command, small_run):
    one_error_line(command("evaluate", f"run={small_run}", "estimator=exact"), "estimator=exact", "estimator=auto")
    one_error_line(command("evaluate", f"run={small_run}", "analysis=nothing"), "analysis=nothing", "surgery")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["split=dev"], ["split=dev", "train, val, test"]),
        (["num_data=0"], ["num_data=0"]),
        (["num_data=abc"], ["num_data=abc"]),
        (["num_data=1000"], ["num_data=1000", "20"]),
        (["estimator=banana"], ["estimator=banana", "elbo, exact, importance"]),
        (["estimator.num_samples=-5"], ["estimator.num_samples=-5"]),
        (["estimator.chunk_size=0"], ["estimator.chunk_size=0"]),
        (["seed=x"], ["seed=x"]),
        (["device=quantum"], ["device=quantum"]),
        (["guide=diagonal"], ["guide"]),
    ],
)
def test_bad_options(command, small_run, arguments, parts):
    one_error_line(command("evaluate", f"run={small_run}", *arguments), *parts)


def test_directories_that_are_no_run(command, tmp_path):
    (tmp_path / "empty").mkdir()
    one_error_line(command("evaluate"), "run=DIR")
    one_error_line(command("evaluate", "run=nowhere"), "nowhere", "not a run directory")
    one_error_line(command("evaluate", "run=empty"), "empty", "not a run directory")
    assert not list((tmp_path / "empty").iterdir())


def test_checkpoints_that_are_missing_truncated_or_foreign(command, small_run):
    path = small_run / "checkpoints" / "best.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt", "damaged")
    path.write_bytes(b"PK\x03\x04 something else")
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt")
    path.unlink()
    one_error_line(command("evaluate", f"run={small_run}"), "best.pt", "no such checkpoint")


CHANGES = {
    "shape": (lambda x: x[:, :3], ["of shape [12], [3] now"]),
    "rows more": (lambda x: np.concatenate([x, x[:20]]), ["datapoints in split=train", "now"]),
    "order of rows": (lambda x: x[::-1], ["split=val", "another order"]),
    "order of columns": (lambda x: x[:, ::-1], ["split=val", "other datapoints"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_are_not_those_of_the_run(command, small_run, finished_run, change):
    """What had been trained on may be in the test set now."""
    data, (alter, parts) = finished_run.parent / "binary.npy", CHANGES[change]
    as_it_was = data.read_bytes()
    np.save(data, alter(np.load(data)))
    outcomes = [
        command("evaluate", f"run={small_run}", "estimator=elbo"),
        command("train", f"resume={small_run}", "trainer.max_epochs=9"),
    ]
    data.write_bytes(as_it_was)
    for outcome in outcomes:
        one_error_line(outcome, str(small_run), *parts, f"data.path={data}")


def test_data_that_have_gone(command, small_data, tmp_path):
    small_run = tmp_path / "run"
    assert command("train", *SMALL, small_data, f"hydra.run.dir={small_run}").code == 0
    (tmp_path / "binary.npy").unlink()
    one_error_line(command("evaluate", f"run={small_run}"), "binary.npy", "no such file")


@pytest.mark.slow
def test_analyses_of_other_datapoints_are_kept(command, small_run):
    folder = small_run / "evaluations"
    analyse = partial(command, "evaluate", f"run={small_run}", "estimator=importance", "analysis=all")
    assert analyse("num_data=12").code == 0
    before = {name: (folder / name).read_bytes() for name in ("gaps.json", "gaps.png", "surgery.json")}
    outcome = analyse("split=val", "num_data=10")
    assert outcome.code == 0, outcome.err
    for name, content in before.items():
        assert (folder / "test-12" / name).read_bytes() == content
    assert set(json.loads((folder / "gaps.json").read_text())) == {"train", "val"}
    assert analyse("split=val", "num_data=10").code == 0  # the same again replaces itself
    assert [d.name for d in folder.iterdir() if d.is_dir()] == ["test-12"]
    assert analyse("split=val", "num_data=10", "estimator.num_samples=30").code == 0
    assert [p.name for p in (folder / "val-10").iterdir() if p.suffix == ".json"] == ["gaps.json"]  # of no estimator


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_characters_gets_every_line(command, small_run, monkeypatch, encoding):
    screen = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", screen)
    options = ["estimator=importance", "estimator.num_samples=[100,200]"]
    assert command("evaluate", f"run={small_run}", "analysis=surgery", *options).code == 0
    screen.flush()
    shown = screen.buffer.getvalue().decode(encoding)
    for name in ("log_px", "elbo", "marginal_kl", "written: "):
        assert name in shown
    assert ("+-" if encoding == "ascii" else "±") in shown


def test_characters_that_a_terminal_lacks():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="pyro_vae.plain")
    stream.write("1 ± 2 × σ, caf\udce9…")
    stream.flush()
    assert stream.buffer.getvalue() == b"1 +- 2 x \\u03c3, caf\xe9..."


def test_bounds_of_real_data_are_written_and_drawn(command, pictures, small_run):
    short = ["num_samples=100", "num_starts=4", "num_warmup=5", "num_draws=16"]
    options = [f"estimator.{setting}" for setting in short]
    outcome = command("evaluate", f"run={small_run}", "estimator=sandwich", "num_data=3", *options)
    assert outcome.code == 0, outcome.err
    folder = small_run / "evaluations"
    arrays, summary = np.load(folder / "sandwich-100.npz"), json.loads((folder / "sandwich-100.json").read_text())
    keys = {"log_px", "se", "ess", "pareto_k", "log_px_upper", "log_px_upper_se", "gap", "rhat", "certified"}
    assert keys <= set(arrays)
    assert all(arrays[key].shape == (3,) for key in keys)
    assert summary["log_px_upper"] == pytest.approx(arrays["log_px_upper"].mean())
    assert summary["certified"] == pytest.approx(arrays["certified"].mean())
    assert (folder / "sandwich-100-bounds.png").stat().st_size > 3000
