import os
import pickle

import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.programs import random_state
from pyro_vae.runs import checkpoint
from pyro_vae.runs.checkpoint import Checkpoints

FULL = {"config": {}, "data_shape": [3], "vae": {}, "optim": {}, "rng": [], "state": {}}


def test_round_trip(tmp_path):
    content = FULL | {"vae": {"w": torch.arange(3.0)}, "config": {"a": [1, None, "x"]}, "best": float("-inf")}
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.exist()
    checkpoints.save(content, is_best=True)
    assert checkpoints.exist()
    for path in (checkpoints.last, checkpoints.best):
        loaded = checkpoint.load(path)
        assert torch.equal(loaded["vae"]["w"], content["vae"]["w"])
        assert loaded["config"] == content["config"]
        assert loaded["best"] == content["best"]
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch, failing):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(FULL | {"state": {"epoch": 1}})

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(FULL | {"state": {"epoch": 2}})
    assert checkpoint.load(checkpoints.last)["state"]["epoch"] == 1
    assert [p.name for p in checkpoints.folder.iterdir()] == ["last.pt"]


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    path = Checkpoints(tmp_path).last
    with pytest.raises(BadInput, match=r"last\.pt: no such checkpoint"):
        checkpoint.load(path)
    Checkpoints(tmp_path).save(FULL | {"vae": {"w": torch.zeros(1000)}})
    whole = path.read_bytes()
    for n in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(BadInput, match=r"last\.pt is damaged or not a checkpoint"):
            checkpoint.load(path)
    path.write_text("hello")
    with pytest.raises(BadInput, match="damaged or not a checkpoint"):
        checkpoint.load(path)
    for foreign in ({"w": torch.zeros(1)}, torch.zeros(1), FULL | {"format": 999}, {"format": checkpoint.FORMAT}):
        torch.save(foreign, path)
        with pytest.raises(BadInput, match="not a checkpoint of pyro_vae"):
            checkpoint.load(path)


def test_loading_executes_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    for write in (torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))):
        write({"format": checkpoint.FORMAT, "vae": Bomb()}, tmp_path / "evil.pt")
        with pytest.raises(BadInput):
            checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_rng_state_goes_on():
    state = random_state.get_rng_state()
    first = torch.randn(5)
    random_state.set_rng_state(state)
    assert torch.equal(torch.randn(5), first)
