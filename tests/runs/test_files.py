"""A run writes into its own directory, whatever a stranger has put there, and alone."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import one_error_line

import pyro_vae
from pyro_vae.commands.logs import RunLog
from pyro_vae.errors import BadInput
from pyro_vae.runs import files, locks, results
from pyro_vae.runs.files import Folder
from pyro_vae.runs.metrics import Metrics


@pytest.fixture
def victim(tmp_path):
    """A file and a folder outside of the run, which must stay as they are."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "precious"


@pytest.fixture(params=["by descriptor", "by name"])
def system(request, monkeypatch):
    """As POSIX has it, and as Windows."""
    if request.param == "by name":
        monkeypatch.setattr(files, "_BY_DESCRIPTOR", False)
        monkeypatch.setattr(files, "_NOFOLLOW", 0)
    return request.param


@pytest.mark.usefixtures("system")
def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path, victim):
    (tmp_path / "last.pt").symlink_to(victim / "file")
    (tmp_path / "last.pt.tmp").symlink_to(victim / "file")  # as temporary files were named once
    files.write(tmp_path / "last.pt", b"new")
    assert not (tmp_path / "last.pt").is_symlink()
    assert (tmp_path / "last.pt").read_bytes() == b"new"
    with Folder(tmp_path) as folder:
        folder.write("last.pt", b"newer", keep="previous.pt")
    assert (tmp_path / "previous.pt").read_bytes() == b"new"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("system")
def test_a_link_in_place_of_a_folder_is_refused(tmp_path, victim):
    run = tmp_path / "run"
    run.mkdir()
    (run / "plots").symlink_to(victim)
    with pytest.raises(BadInput, match="plots is a symbolic link"):
        files.write(run / "plots" / "samples.png", b"")
    (run / "evaluations").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="evaluations is a symbolic link"):
        files.write(run / "evaluations" / "a.json", b"")
    assert not (tmp_path / "nowhere").exists()
    with Folder(run) as folder, pytest.raises(BadInput, match="plots is a symbolic link"):
        Folder(run / "plots", within=folder)


def test_a_folder_once_opened_stays_the_same(tmp_path, victim):
    with Folder(tmp_path / "plots") as folder:
        (tmp_path / "plots").rename(tmp_path / "moved")
        (tmp_path / "plots").symlink_to(victim)
        folder.write("samples.png", b"picture")
    assert (tmp_path / "moved" / "samples.png").read_bytes() == b"picture"


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe"])
def test_what_is_appended_to_is_a_file_of_the_run(kind, tmp_path, victim):
    path = tmp_path / "run" / "train.log"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        os.link(victim / "file", path)
    else:
        path.symlink_to(victim / "file" if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"train\.log"):
        RunLog(str(path))
    assert not (tmp_path / "nowhere").exists()


def test_the_log_is_in_utf8_in_any_locale(tmp_path):
    log = RunLog(str(tmp_path / "train.log"))
    for line in ("± ∞", "caf\udce9"):
        log.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
    log.close()
    assert (tmp_path / "train.log").read_text("utf-8") == "± ∞\ncaf\\udce9\n"


def test_metrics_and_events_are_not_written_through_links(tmp_path, victim):
    (tmp_path / "metrics.csv").symlink_to(victim / "file")
    with Metrics(tmp_path):
        pass
    assert not (tmp_path / "metrics.csv").is_symlink()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert len(events.suffix) == 17  # random


def test_files_that_are_no_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # whose reader would wait for ever
    (tmp_path / "large").write_bytes(b"12345")
    for path, message in ((tmp_path / "pipe", "not a regular file"), (tmp_path / "large", "more than the limit of 4")):
        with pytest.raises(BadInput, match=message):
            files.read(path, limit=4)
    with pytest.raises(BadInput, match="not a regular file"):
        files.read(Path("/dev/zero"), limit=4)
    assert files.read(tmp_path / "large", limit=5) == b"12345"


def test_the_directory_that_the_user_names_may_be_a_link_and_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert files.given("~/link") == tmp_path / "real"
    assert files.given("~/new") == tmp_path / "new"
    assert files.given("relative") == Path("relative")
    with pytest.raises(BadInput, match="nowhere is a broken symbolic link"):
        files.given("~/nowhere")


@pytest.mark.parametrize(
    "about",
    [
        {"split": "../../outside", "num_data": 5},
        {"split": "test", "num_data": "/../../../outside"},
        {"split": "test", "num_data": -1},
        {"split": "test", "num_data": 10**400},
        {"split": ["test"], "num_data": 5},
        {"test": {"num_data": "../../outside"}},
        [],
        3,
    ],
)
def test_an_evaluation_of_a_stranger_moves_nothing_out(about, tmp_path, victim):
    folder = tmp_path / "run" / "evaluations"
    folder.mkdir(parents=True)
    (folder / "importance-5.json").write_text(json.dumps(about))
    (folder / "importance-5.npz").write_text("")
    results.set_aside(folder / "importance-5.json", {"split": "test", "num_data": 9})
    assert sorted(path.name for path in folder.iterdir()) == ["importance-5.json", "importance-5.npz"]
    (folder / "importance-5.json").write_text("[" * 100_000)
    results.set_aside(folder / "importance-5.json", {"split": "test", "num_data": 9})


@pytest.mark.usefixtures("system")
def test_an_evaluation_is_not_moved_through_a_link(tmp_path, victim):
    folder = tmp_path / "run" / "evaluations"
    folder.mkdir(parents=True)
    (folder / "importance-5.json").write_text(json.dumps({"split": "test", "num_data": 5}))
    (folder / "test-5").symlink_to(victim)
    with pytest.raises(BadInput, match="test-5 is a symbolic link"):
        results.set_aside(folder / "importance-5.json", {"split": "test", "num_data": 9})


@pytest.mark.parametrize("name", ["evaluations", "plots", "checkpoints", ".hydra/config.yaml"])
def test_links_in_a_run_are_refused_before_the_work(name, command, small_run, victim):
    path = small_run / name
    target = victim / "file" if path.is_file() else victim
    if name == "checkpoints":
        target = small_run / "elsewhere"
        path.rename(target)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)
    line = f"{path} is a symbolic link"
    one_error_line(command("evaluate", f"run={small_run}", "estimator=elbo", "estimator.num_samples=2"), line)
    one_error_line(command("train", f"resume={small_run}"), line)


def test_a_log_that_is_a_link_is_refused(command, small_run, victim):
    (small_run / "train.log").unlink()
    (small_run / "train.log").symlink_to(victim / "file")
    one_error_line(command("train", f"resume={small_run}"), "train.log is a symbolic link")


def test_a_run_directory_that_is_a_link_serves(command, small_run, tmp_path):
    (tmp_path / "link").symlink_to(small_run)
    assert command("evaluate", "run=link", "estimator=elbo", "estimator.num_samples=2").code == 0
    assert (small_run / "evaluations" / "elbo-2.json").is_file()
    outcome = command("train", "resume=link", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err


def test_runs_of_a_sweep_are_not_those_of_links(command, small_run, finished_run, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    shutil.copytree(small_run, sweep / "0")
    (sweep / "1").symlink_to(small_run)
    outcome = command("evaluate", f"run={sweep}", "estimator=elbo", "estimator.num_samples=2")
    assert outcome.code == 0, outcome.err
    assert f"{sweep / '1'} is a symbolic link and left out" in outcome.out
    assert not (small_run / "evaluations").exists()


def test_one_process_at_a_time(tmp_path):
    claim = locks.Claim(tmp_path / "run", "wait")
    for shared in (True, False):
        with pytest.raises(BadInput, match="another run is active in .*run: wait"):
            locks.Claim(tmp_path / "run", "wait", shared=shared)
    claim.release()
    assert not (tmp_path / "run" / ".lock").exists()
    one, other = (locks.Claim(tmp_path / "run", "wait", shared=True) for _ in range(2))
    assert not one.is_alone()
    one.release()
    assert other.is_alone()
    other.release()
    assert not (tmp_path / "run" / ".lock").exists()


def test_who_asks_whether_it_is_alone_keeps_its_claim(tmp_path):
    one, other = (locks.Claim(tmp_path / "run", "wait", shared=True) for _ in range(2))
    assert not one.is_alone()
    other.release()
    assert (tmp_path / "run" / ".lock").exists()
    with pytest.raises(BadInput, match="another run is active"):
        locks.Claim(tmp_path / "run", "wait")
    assert one.is_alone()
    one.release()


def test_the_lock_of_others_is_not_removed(tmp_path):
    claim = locks.Claim(tmp_path / "run", "wait", shared=True)
    (tmp_path / "run" / ".lock").unlink()  # as who was alone does
    other = locks.Claim(tmp_path / "run", "wait")
    assert not claim.is_alone()
    claim.release()
    with pytest.raises(BadInput, match="another run is active"):
        locks.Claim(tmp_path / "run", "wait")
    other.release()


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, time; from pathlib import Path; from pyro_vae.runs.locks import Claim; "
        f"claim = Claim(Path({str(tmp_path)!r}), ''); "
        "is_child = os.fork() == 0; is_child and print('has it', flush=True); time.sleep(5 if is_child else 60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "has it\n"
    with pytest.raises(BadInput, match="another run is active"):
        locks.Claim(tmp_path, "")
    child.send_signal(signal.SIGKILL)
    child.wait()  # but not for its child, as a process that reads data
    locks.Claim(tmp_path, "").release()


def test_a_second_resume_and_a_second_fit_are_refused(command, small_run):
    claim = locks.Claim(small_run, "")
    before = {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()}
    one_error_line(
        command("train", f"resume={small_run}", "trainer.max_epochs=9"), f"{small_run}", "another run is active"
    )
    assert {path: path.read_bytes() for path in small_run.rglob("*") if path.is_file()} == before
    (small_run / "checkpoints").rename(small_run / "other")
    with pytest.raises(BadInput, match="another run is active"):
        pyro_vae.fit(np.zeros((20, 3)), run_dir=small_run, max_epochs=1, latent_dim=1)
    claim.release()


def test_a_second_sweep_in_the_same_directory_is_refused(command, tmp_path):
    claim = locks.Claim(tmp_path / "sweep", "")
    outcome = command("train", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    one_error_line(outcome, f"{tmp_path / 'sweep'}", "another hydra.sweep.dir=DIR")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]
    claim.release()


def test_what_a_killed_process_left_half_written_goes(command, small_run):
    for folder in (small_run, small_run / "checkpoints"):
        (folder / ".last.pt.0123456789abcdef.tmp").write_bytes(b"half")
    assert command("train", f"resume={small_run}", "trainer.max_epochs=3").code == 0
    assert not list(small_run.rglob(".*.tmp"))
    assert not (small_run / ".lock").exists()


def test_a_refused_run_leaves_no_directory(command, small_data, tmp_path):
    train = partial(command, "train", "data=array", small_data)
    before = set(tmp_path.rglob("*"))
    one_error_line(train("latent_dim=0"))
    one_error_line(train("estimator=bdmc"))
    one_error_line(train("seed=-1", "hydra.run.dir=a/b/c"))
    one_error_line(command("train", "-m", "optimizer.rate=1"))
    assert set(tmp_path.rglob("*")) == before
    for name in ("mine", "mine/empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    one_error_line(train("latent_dim=0", "hydra.run.dir=mine"))
    one_error_line(train("latent_dim=0", "hydra.run.dir=mine/empty"))
    assert (tmp_path / "mine" / "notes.txt").exists()  # what was there stays
    assert (tmp_path / "mine" / "empty").is_dir()
