"""Files that are broken, by accident or on purpose: a line about them, no traceback, nothing executed, no waiting."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae.data import Dataset, array
from pyro_vae.errors import BadInput, memory

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
    monkeypatch.setattr(memory, "physical_memory", lambda: 3_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", None)  # nor is it unpacked
    with pytest.raises(BadInput, match=r"x unpacks to 0\.0 GiB: too much"):
        array(str(path))


def test_bytes_take_four_times_their_size_as_floats_and_again_in_splits(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 1000), np.uint8))
    monkeypatch.setattr(memory, "physical_memory", lambda: 9_000_000)
    assert len(array(str(tmp_path / "x.npz")).train) == 800
    monkeypatch.setattr(memory, "physical_memory", lambda: 7_000_000)
    monkeypatch.setattr(torch, "from_numpy", None)  # nor is it converted
    with pytest.raises(BadInput, match=r"takes, as floats, 0\.0 GiB: too much"):
        array(str(tmp_path / "x.npz"))


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


def test_links_that_lead_in_circles_are_not_followed_for_ever(tmp_path):
    os.symlink(tmp_path / "x.npy", tmp_path / "x.npy")
    with pytest.raises(BadInput, match="x.npy cannot be read: Too many levels of symbolic links"):
        array(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("names", [("x", "x.npy"), ("x.npy", "x"), ("x.npy", "x.npy")])
@pytest.mark.parametrize("key", [None, "x", "x.npy"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_entries_of_one_name_is_refused(names, key, tmp_path):
    """One is small, and the other is what NumPy would read."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, x in zip(names, (X, np.zeros((1000, 1000))), strict=True):
            archive.writestr(name, npy(x))
    with pytest.raises(BadInput, match="x.npz holds two entries named x: save it again"):
        array(str(tmp_path / "x.npz"), key=key)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_that_numpy_does_not_write_are_refused(method, tmp_path):
    """Of LZMA a few bytes can ask for 4 GiB to unpack with."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("x.npy", npy())
    with pytest.raises(BadInput, match="compressed by a method that NumPy does not use"):
        array(str(tmp_path / "x.npz"))


def test_the_names_of_entries_make_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for i in range(1000):
            archive.writestr(f"{i}\n\x1b[2J", npy())
    for key in (None, "y"):
        with pytest.raises(BadInput) as error:
            array(str(tmp_path / "x.npz"), key=key)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00"])
def test_long_headers_are_refused_before_they_are_read(packed, version, tmp_path, monkeypatch):
    size = 60_000
    header = b"\x93NUMPY" + version + size.to_bytes(2 if version == b"\x01\x00" else 4, "little") + b" " * size
    if packed:
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", header)
    else:
        (tmp_path / "x.npz").write_bytes(header)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(BadInput, match="a header of 60000 bytes"):
        array(str(tmp_path / "x.npz"))


def test_what_is_held_out_must_fit_into_memory(tmp_path, monkeypatch):
    """A file of holes takes no room on the disk."""
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (20, 10**6)).flush()
    monkeypatch.setattr(memory, "physical_memory", lambda: 30e6)
    with pytest.raises(BadInput, match="validation and test data take 0.0 GiB.*set max_held_out=N, smaller"):
        array(str(tmp_path / "x.npy"))
    assert array(str(tmp_path / "x.npy"), max_held_out=1).sizes == {"train": 18, "val": 1, "test": 1}


@pytest.mark.parametrize("name", ["x.pt", "X.PTH", "x.npz", "x"])
def test_files_of_torch_are_told_how_to_be_converted(name, tmp_path):
    torch.save(torch.zeros(20, 3), tmp_path / name)
    with pytest.raises(BadInput, match=r"path=.*: convert it once, np.save\(FILE.npy, torch.load"):
        array(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.csv", "use data=table"),
        ("x.txt", "convert it once, np.save.*loadtxt"),
        ("x.parquet", "use data=table"),
        ("x.pkl", "pandas"),
        ("x.h5", "h5py"),
        ("x.png", "data=image_folder"),
    ],
)
def test_files_of_other_kinds_are_told_how_to_be_converted(name, message, tmp_path):
    (tmp_path / name).write_text("1,2\n3,4\n")
    with pytest.raises(BadInput, match=f"is not a .npy or .npz file: .*{message}"):
        array(str(tmp_path / name))
