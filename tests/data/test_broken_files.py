"""Files that are broken, by accident or on purpose: a line about them, no traceback, nothing executed, no waiting."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae.data import Dataset, array, files
from pyro_vae.errors import BadInput

X = np.random.default_rng(0).random((40, 3)).astype(np.float32)
quickly = settings(
    max_examples=60, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def npy(x=X, **kwargs):
    buffer = io.BytesIO()
    np.save(buffer, x, **kwargs)
    return buffer.getvalue()


def npz(save=np.savez, **entries):
    buffer = io.BytesIO()
    save(buffer, **entries)
    return buffer.getvalue()


WHOLE = {"x.npy": npy(), "y.npz": npz(x=X), "z.npz": npz(np.savez_compressed, x=X, y=X[:, 0])}


def read(path, content, **kwargs):
    """What `data=array` makes of it; BadInput is all that it may raise."""
    path.write_bytes(content)
    x, line = None, ""
    try:
        data = array(str(path), **kwargs)
        assert isinstance(data, Dataset)
        x = data.train.in_memory().x
    except BadInput as error:
        line = str(error)
    assert "\n" not in line
    if x is not None:
        assert x.isfinite().all()
    return x


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(name, tmp_path):
    assert read(tmp_path / name, WHOLE[name], key="x" if name == "z.npz" else None) is not None


@quickly
@given(name=st.sampled_from(sorted(WHOLE)), content=st.binary(max_size=300))
def test_any_bytes(tmp_path, name, content):
    assert read(tmp_path / name, content) is None


@quickly
@given(data=st.data(), name=st.sampled_from(sorted(WHOLE)))
def test_flipped_cut_and_stretched(tmp_path, data, name):
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 400) - 1) | st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 100))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        if not content:
            break
    read(tmp_path / name, bytes(content), key="x" if name == "z.npz" else None)


KNOWN = ["<f4", ">f8", "|u1", "|b1", "|O", "<U5", "<c8", "<M8[s]", "|V3", "banana", "<f99"]
SIZES = st.integers(-3, 10) | st.sampled_from([2**31, 2**62, 10**30])


@quickly
@given(
    descr=st.sampled_from(KNOWN) | st.text(max_size=8),
    order=st.booleans() | st.text(max_size=3),
    shape=st.lists(SIZES, max_size=4).map(tuple) | st.text(max_size=3),
    body=st.binary(max_size=200),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
)
def test_headers_that_promise_what_does_not_follow(tmp_path, descr, order, shape, body, version):
    header = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode("utf8", "replace") + b"\n"
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    read(tmp_path / "x.npy", b"\x93NUMPY" + bytes(version) + size + header + body)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_nothing_is_executed(name, tmp_path):
    bomb = np.array([Bomb(str(tmp_path / "owned"))], dtype=object)
    contents = [
        npy(bomb, allow_pickle=True),
        npz(x=bomb),
        pickle.dumps(Bomb(str(tmp_path / "owned"))),
        npy()[:-4] + pickle.dumps(Bomb(str(tmp_path / "owned"))),
    ]
    for content in contents:
        read(tmp_path / name, content)
    assert not (tmp_path / "owned").exists()


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000), np.uint8))
    assert path.stat().st_size < 5000
    assert len(array(str(path)).train) == 800
    monkeypatch.setattr(files, "physical_memory", lambda: 3_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", None)  # nor is it unpacked
    with pytest.raises(BadInput, match=r"x unpacks to 0\.0 GiB: too much"):
        array(str(path))


def test_names_that_lead_out_of_the_folder_are_names(tmp_path):
    """Entries are read, none is unpacked to the disk."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped.npy", npy())
    assert len(array(str(path)).train) == 32
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    for path in (tmp_path / "x.npy", tmp_path):
        with pytest.raises(BadInput, match="is not a regular file"):
            array(str(path))
