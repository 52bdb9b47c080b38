"""A run that is killed, at any moment, goes on as if it had not been."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PRELOADED, assert_same, every, outcome

from pyro_vae.errors import BadInput
from pyro_vae.runs import checkpoint, metrics
from pyro_vae.runs.build import build_data
from pyro_vae.runs.checkpoint import Checkpoints
from pyro_vae.runs.config import compose
from pyro_vae.runs.resume import resumed_config
from pyro_vae.runs.run import train

OPTIONS = [
    "data=array", "data.binarize=dynamic", "network.hidden=[16]", "latent_dim=2", "trainer.max_epochs=6",
    "trainer.batch_size=30", "trainer.patience=4", "scheduler=cosine", "trainer.compile=false",
]  # fmt: skip


def train_here(run_dir, data_path, resume, ready, crash_at=None):
    """What the command does, in a child process; `crash_at`: (function, count) at which it kills itself."""
    torch.set_num_threads(1)
    config = compose([*OPTIONS, f"data.path={data_path}"])
    if crash_at is not None:
        kill_at(*crash_at)
    ready.set()
    if resume and Checkpoints(run_dir).exist():
        config = resumed_config(config, [], run_dir)
    train(config, build_data(config), run_dir, resume=resume and Checkpoints(run_dir).exist())


def kill_at(name, count):
    """Let this process kill itself in the count-th call of os.NAME, before the call does anything."""
    real, calls = getattr(os, name), []

    def deadly(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, name, deadly)


@pytest.fixture(scope="module")
def children():
    """Processes that have imported all already: forked from a server that has one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "grey.npy"
    np.save(path, np.random.default_rng(0).random((400, 12)).astype(np.float32))
    return path


def run(children, run_dir, data_path, resume=False, after=None, crash_at=None):
    """Seconds that the run took; `after`: kill it then."""
    ready = children.Event()
    child = children.Process(target=train_here, args=(run_dir, data_path, resume, ready, crash_at))
    child.start()
    assert ready.wait(60)
    started = time.monotonic()
    child.join(after)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode in ([-signal.SIGKILL] if crash_at else [0] if after is None else [0, -signal.SIGKILL])
    return time.monotonic() - started


@pytest.fixture(scope="module")
def uninterrupted(children, data_path, tmp_path_factory):
    """Seconds and outcome."""
    run_dir = tmp_path_factory.mktemp("whole")
    return run(children, run_dir, data_path), outcome(run_dir)


def check(children, run_dir, data_path, expected):
    run(children, run_dir, data_path, resume=True)
    assert [row["epoch"] for row in metrics.read(run_dir)] == list(range(1, len(expected[0]) + 1))
    assert_same(outcome(run_dir), expected)


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(children, data_path, uninterrupted, tmp_path, num_kills):
    """Each run is killed, so are the three that resume it, and the next goes on to the end."""
    seconds, expected = uninterrupted
    rng, kills = np.random.default_rng(int(time.time())), 0
    while kills < num_kills:
        run_dir = tmp_path / f"after-{kills}"
        for resume in (False, True, True, True):
            run(children, run_dir, data_path, resume=resume, after=seconds * rng.random())
            kills += 1
        check(children, run_dir, data_path, expected)


# those of the first saves: fsync of a file and of its folder; replace of the last by the previous, of a file by its new
CALLS = [*(("fsync", n) for n in range(2, 11)), *(("replace", n) for n in range(2, 9))]


@pytest.mark.parametrize("crash_at", every(20, CALLS))
def test_killed_within_a_checkpoint_write(crash_at, children, data_path, uninterrupted, tmp_path):
    run(children, tmp_path, data_path, crash_at=crash_at)
    check(children, tmp_path, data_path, uninterrupted[1])


def test_a_checkpoint_half_written_is_none(children, data_path, uninterrupted, tmp_path):
    """Whatever of its temporary file is on the disk."""
    run(children, tmp_path, data_path, crash_at=("fsync", 8))
    (tmp_path / "checkpoints" / "last.pt.tmp").write_bytes(b"PK\x03\x04 half")
    check(children, tmp_path, data_path, uninterrupted[1])


@pytest.mark.parametrize("damage", every(4, ["a flipped bit", "truncated", "gone", "empty"]))
def test_a_damaged_last_falls_back_to_the_previous(damage, children, data_path, uninterrupted, tmp_path, caplog):
    run(children, tmp_path, data_path, crash_at=("fsync", 30))
    checkpoints = Checkpoints(tmp_path)
    content = checkpoints.load_last()
    epoch = content["state"]["epoch"]
    assert epoch > 2
    whole = checkpoints.last.read_bytes()
    flipped = bytearray(whole)
    # in a tensor: between the archive's entries lies padding, which may be anything
    flipped[whole.index(content["vae"]["decoder.0.weight"].numpy().tobytes())] ^= 1
    if damage == "gone":
        checkpoints.last.unlink()
    else:
        checkpoints.last.write_bytes({"truncated": whole[:-100], "a flipped bit": bytes(flipped), "empty": b""}[damage])
    assert checkpoints.load_last()["state"]["epoch"] == epoch - 1
    assert "going on from" in caplog.text
    check(children, tmp_path, data_path, uninterrupted[1])
    assert (checkpoints.folder / "last.damaged").exists() == (damage != "gone")


def test_with_both_damaged_nothing_is_overwritten(children, data_path, tmp_path):
    run(children, tmp_path, data_path, crash_at=("fsync", 30))
    checkpoints = Checkpoints(tmp_path)
    for path in (checkpoints.last, checkpoints.previous):
        path.write_bytes(b"broken")
    with pytest.raises(BadInput, match=r"previous\.pt is damaged"):
        resumed_config(compose(OPTIONS), [], tmp_path)
    assert {p.name for p in checkpoints.folder.iterdir()} >= {"best.pt", "last.pt", "previous.pt"}


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_in_a_tensor_is_noticed(where, tmp_path):
    """torch itself compares no checksums."""
    path = tmp_path / "last.pt"
    content = dict.fromkeys(checkpoint.KEYS) | {"vae": {"w": torch.arange(10_000.0)}}
    Checkpoints(tmp_path).save(content)
    path = tmp_path / "checkpoints" / "last.pt"
    whole = bytearray(path.read_bytes())
    start = bytes(whole).index(torch.arange(10_000.0).numpy().tobytes())
    whole[start + int(40_000 * where)] ^= 4
    path.write_bytes(bytes(whole))
    assert not torch.equal(torch.load(path)["vae"]["w"], content["vae"]["w"])
    with pytest.raises(BadInput, match=r"last\.pt is damaged"):
        checkpoint.load(path)


def spread(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_previous_checkpoint_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    content = {"config": {}, "data_shape": [3], "vae": {}, "optim": {}, "rng": []}
    for epoch in range(3):
        checkpoints.save(content | {"state": {"epoch": epoch}}, is_best=epoch == 1)
    assert spread(checkpoints.folder) == ["best.pt", "last.pt", "previous.pt"]
    found = {name: checkpoint.load(checkpoints.folder / name)["state"]["epoch"] for name in spread(checkpoints.folder)}
    assert found == {"best.pt": 1, "last.pt": 2, "previous.pt": 1}
