"""What an attack on hostile runs, studies and data found, and is refused now."""

from __future__ import annotations

import logging
import math
import shutil
import sqlite3
import zipfile
from collections import OrderedDict
from contextlib import closing
from functools import partial

import pytest
import torch
from test_hostile import laughs, require_refused, rewrite, setting

import pyro_vae
from pyro_vae.commands import search
from pyro_vae.commands.logs import PrintableFormatter
from pyro_vae.data import from_array, image_folder, mnist, ring
from pyro_vae.data.fingerprint import difference, fingerprint
from pyro_vae.data.images import opened
from pyro_vae.data.vision import without_downloads
from pyro_vae.errors import MAX_MESSAGE, BadInput, FailedRun, printable
from pyro_vae.runs import archive, comparison, plots
from pyro_vae.runs.figures import save
from pyro_vae.runs.plain import read_yaml
from pyro_vae.training.optim import JointOptim

ESCAPES = "\x1b[2J\x1b]0;title\x07\nerror: all is well\r\u202e"


def test_messages_are_one_printable_line():
    message = str(BadInput(ESCAPES + "x" * 10_000))
    assert message.isprintable()
    assert len(message) == MAX_MESSAGE
    assert printable("σ ≥ 1, ±0.5") == "σ ≥ 1, ±0.5"
    record = logging.LogRecord("", logging.INFO, "", 0, "a table\n%s", (ESCAPES,), None)
    assert all(map(str.isprintable, PrintableFormatter("%(message)s").format(record).split("\n")))


@pytest.mark.parametrize("place", [("config", "guide", "_target_"), ("config", "guide", ESCAPES), ("vae", ESCAPES)])
def test_names_out_of_a_file_do_not_reach_the_terminal(small_run, place):
    rewrite(small_run, setting(*place, to=torch.full((2,), math.nan) if place[0] == "vae" else ESCAPES))
    with pytest.raises(BadInput) as caught:
        pyro_vae.load(small_run)
    assert str(caught.value).isprintable()


# What stands for more than it takes in the file -------------------------------------------------------------


@pytest.mark.parametrize("place", [("state", "seconds"), ("optim", "names"), ("data", "sizes", "train")])
def test_shared_lists_do_not_stand_for_more_than_a_pickle_holds(small_run, place):
    rewrite(small_run, setting(*place, to=laughs()))
    with pytest.raises(BadInput, match="stands for more than"):
        pyro_vae.load(small_run)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("sizes", "train"), "many"),
        (("sizes", "other"), 1),
        (("val", "x"), [[1.0] * 100] * 20),
        (("val", "x"), [10**400] * 20),
        (("val", "x"), torch.zeros(20)),
        (("val", "x"), [1.0] * 101),
        (("val", "y"), ["a"]),
        (("val", "z"), None),
    ],
)
def test_a_fingerprint_is_plain_numbers(place, value):
    now = fingerprint(from_array(torch.rand(200, 3), name="x"))
    before = fingerprint(from_array(torch.rand(200, 3), name="x"))
    target = before
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(BadInput, match="not a fingerprint"):
        difference(before, now)


def test_yaml_of_many_values_is_not_parsed_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.runs.plain.MAX_VALUES", 5)
    (tmp_path / "config.yaml").write_text("- 1\n" * 20 + "[")  # not YAML, at its end
    with pytest.raises(BadInput, match="too large"):
        read_yaml(tmp_path / "config.yaml")


def test_numbers_out_of_a_file_are_bounded_where_they_take_memory(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="^num_data=200000000 must be at most"):
        ring(num_data=2 * 10**8)
    with pytest.raises(BadInput, match="^num_workers=10000 must be at most"):
        image_folder(str(tmp_path), num_workers=10_000)
    monkeypatch.setattr("pyro_vae.errors.memory.physical_memory", lambda: 1000.0)
    with pytest.raises(BadInput, match="the order of 3000 datapoints"):
        ring(num_data=3000)


# Weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [3, {"": 3}, {"encoder": {"version": "x"}}])
def test_metadata_of_weights_are_not_looked_at(small_run, metadata):
    def change(content):
        content["vae"] = OrderedDict(content["vae"])
        content["vae"]._metadata = metadata

    rewrite(small_run, change)
    pyro_vae.load(small_run)


def test_weights_have_names(small_run):
    rewrite(small_run, lambda content: content["vae"].update({0: torch.zeros(2)}))
    with pytest.raises(BadInput, match="its vae is not valid"):
        pyro_vae.load(small_run)


def test_torch_gets_the_records_that_it_needs(small_run, recwarn):
    path = small_run / "checkpoints" / "best.pt"
    with zipfile.ZipFile(path, "a") as file:
        folder = file.namelist()[0].partition("/")[0]
        file.writestr(f"{folder}/constants.pkl", b"\x80\x02).")  # which makes it an archive of TorchScript
    pyro_vae.load(small_run)
    assert not recwarn.list
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    records[f"{folder}/data.pkl"] = b"\x80\x09N."
    with pytest.raises(ValueError, match="of protocol 9"):
        archive.Outline(records, folder)


def test_an_older_checkpoint_without_an_epoch(small_run):
    rewrite(small_run, setting("state", to={}))
    (small_run / "checkpoints" / "last.pt").write_bytes(b"damaged")
    pyro_vae.load(small_run, which="last")


def test_weights_that_give_no_finite_numbers(small_run, command):
    rewrite(small_run, lambda content: [value.fill_(3e38) for value in content["vae"].values()][:0])
    outcome = command("evaluate", f"run={small_run}", "estimator=importance", "estimator.num_samples=5", "num_data=10")
    assert outcome.code == 2
    assert "its weights are so large" in outcome.err


# The state of an optimizer ------------------------------------------------------------------------------------

STATES = {
    "a tensor that is too small": (("state", 0, "exp_avg"), torch.tensor(1.0)),  # torch writes beyond its end
    "no tensor": (("state", 0, "exp_avg"), None),
    "a string": (("state", 0, "exp_avg"), "x"),
    "a vector of steps": (("state", 0, "step"), torch.zeros(16, 12)),
    "another value": (("state", 0, "max_exp_avg_sq"), torch.zeros(16, 12)),
    "no rate": (("param_groups", 0, "lr"), None),
    "an infinite rate": (("param_groups", 0, "lr"), math.inf),
    "rates that are strings": (("param_groups", 0, "betas"), ("a", "b")),
}


@pytest.mark.parametrize("what", STATES)
def test_states_that_torch_would_die_of(small_run, command, what):
    place, value = STATES[what]
    rewrite(small_run, setting("optim", "optimizer", *place, to=value))
    require_refused(command("train", f"resume={small_run}", "trainer.max_epochs=3"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("optimizer", "param_groups", 0, "params"), [0] * 8),  # of which torch dies
        (("optimizer", "param_groups", 0, "eps"), None),
        (("optimizer", "param_groups", 0, "amsgrad"), True),
        (("scheduler", "optimizer"), 3),
        (("scheduler", "total_iters"), None),
    ],
)
def test_settings_are_those_of_the_configuration(small_run, command, place, value):
    rewrite(small_run, setting("optim", *place, to=value))
    outcome = command("train", f"resume={small_run}", "trainer.max_epochs=3")
    assert (outcome.code, outcome.err) == (0, "")


def test_schedules_and_optimizers_that_torch_refuses_late():
    adam, parameter = partial(torch.optim.Adam, lr=0.1), torch.nn.Parameter(torch.ones(2))
    optim = JointOptim(adam, partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=3))
    with pytest.raises(BadInput, match="does not support dense gradients"):
        JointOptim(partial(torch.optim.SparseAdam, lr=0.1))
    with pytest.raises(BadInput, match="fused"):
        JointOptim(partial(torch.optim.AdamW, fused=True, foreach=True))
    optim.optimizer = adam([parameter])
    optim.scheduler = optim.make_scheduler(optim.optimizer)
    parameter.grad = torch.zeros(2)
    optim.optimizer.step()
    for _ in range(3):
        optim.end_epoch(0.0)
    with pytest.raises(FailedRun, match="the scheduler cannot continue"):
        optim.end_epoch(0.0)


# Data sets -----------------------------------------------------------------------------------------------------


def test_files_of_mnist_that_are_a_strangers(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    raw, processed = tmp_path / "MNIST" / "raw", tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):  # which torchvision would unpickle
        (processed / name).write_bytes(b"junk")
    with without_downloads(), pytest.raises(BadInput, match="should hold"):
        mnist(str(tmp_path))
    raw.mkdir()
    for prefix in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(b"\x7f" * 100)
    with without_downloads(), pytest.raises(BadInput, match="are damaged"):
        mnist(str(tmp_path), verify=False)
    monkeypatch.setattr("pyro_vae.errors.memory.physical_memory", lambda: 500.0)
    with without_downloads(), pytest.raises(BadInput, match="too much for"):
        mnist(str(tmp_path), verify=False)


def test_partial_is_true(small_run, command):
    rewrite(small_run, setting("config", "optimizer", "_partial_", to=None))
    require_refused(command("train", f"resume={small_run}", "trainer.max_epochs=3"))


def test_damaged_images_are_refused_without_warnings(tmp_path, recwarn):
    (tmp_path / "x.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 100)
    with pytest.raises(BadInput, match="not a readable image"), opened(tmp_path / "x.tif", 8):
        pass
    assert not recwarn.list


# Sweeps -------------------------------------------------------------------------------------------------------


def test_options_of_a_stranger_are_drawn_as_they_are(tmp_path):
    for run, option in (("0", r"a=$\\frac{"), ("1", f"b={'x' * 9000}")):
        (tmp_path / run / ".hydra").mkdir(parents=True)
        (tmp_path / run / ".hydra" / "overrides.yaml").write_text(f"- '{option}'\n")
    labels = comparison.labels([tmp_path / "0", tmp_path / "1"])
    assert max(map(len, labels.values())) == comparison.MAX_LABEL
    save(plots.comparison({label: [1.0] for label in labels.values()}, [1.0, 1.0], [0.1, 0.1]), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


# Studies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{tmp_path / 's.db'}"
    return optuna.create_study(storage=storage, study_name=search.STUDY, direction="maximize")


ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x FROM r"


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE VIEW a AS {ENDLESS}",
        f"CREATE TRIGGER a AFTER INSERT ON trials BEGIN INSERT INTO studies {ENDLESS}; END",
        "CREATE TABLE a (b INTEGER, c GENERATED ALWAYS AS (hex(zeroblob(1000000000))))",
    ],
)
def test_a_study_computes_nothing(study, tmp_path, statement):
    search._study(tmp_path / "s.db")
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        database.execute(statement)
    with pytest.raises(BadInput, match="was not written by Optuna"):
        search._study(tmp_path / "s.db")


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_a_study_is_not_written_through_links(study, tmp_path, suffix):
    beside = tmp_path / f"s.db{suffix}"
    beside.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="SQLite would write to it"):
        search._study(tmp_path / "s.db")
    beside.unlink()
    (tmp_path / "precious").write_text("")
    beside.hardlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="SQLite would write to it"):
        search._study(tmp_path / "s.db")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer._target_", "os.system"),
        ("+optimizer.command", "ls"),
        ("trust", "os.system"),
        ("guide", "{_target_: os.system}"),
        ("latent_dim", "${oc.env:HOME}"),
        ("latent_dim", ESCAPES),
    ],
)
def test_a_study_suggests_no_command(study, key, value):
    import optuna

    distribution = optuna.distributions.CategoricalDistribution([value])
    study.add_trial(optuna.trial.create_trial(params={key: value}, distributions={key: distribution}, value=1.0))
    with pytest.raises(BadInput, match="holds a trial of"):
        search._require_options(study, {}, "s.db")
    good = optuna.trial.create_trial(
        params={"optimizer.lr": 0.1},
        distributions={"optimizer.lr": optuna.distributions.FloatDistribution(0, 1)},
        value=1.0,
    )
    search._require_options(type("", (), {"trials": [good]}), {}, "s.db")


def test_values_that_no_elbo_has_are_not_drawn(study):
    import optuna

    for value in (1e308, math.inf, -5.0):
        study.add_trial(optuna.trial.create_trial(params={}, distributions={}, value=value))
    assert [trial.value for trial in search._finished(study)] == [-5.0]


def test_the_epoch_of_the_checkpoint_before_cannot_write_to_the_terminal(small_run, tmp_path, caplog):
    run = shutil.copytree(small_run, tmp_path / "copy")
    rewrite(run, setting("state", "epoch", to="\x1b[2J\nerror: all is well"))
    (run / "checkpoints" / "last.pt").write_bytes(b"damaged")
    pyro_vae.load(run, which="last")
    (message,) = caplog.messages
    assert "going on from" in message
    assert "all is well" in message
    assert message.isprintable()
