"""Data that stay on disk: the same batches as from memory, and a memory that does not grow with them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import Split, Stored, array, from_array, image_folder
from pyro_vae.data.split import stored
from pyro_vae.errors import BadInput

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)


def batches(data, seed=0):
    torch.manual_seed(seed)
    return list(data.batches(torch.randperm(len(data.train)).split(7)))


def assert_same(mapped, memory):
    assert isinstance(mapped.train, Stored)
    assert isinstance(memory.train, Split)
    assert mapped.data_shape == memory.data_shape
    assert mapped.num_classes == memory.num_classes
    for name in ("train", "val", "test"):
        assert torch.equal(mapped.split(name, 6).x, memory.split(name, 6).x)
    for one, other in zip(batches(mapped), batches(memory), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1]) if other[1] is not None else one[1] is None


@pytest.mark.parametrize("noise", [{"binarize": b} for b in ("none", "dynamic", "threshold")] + [{"dequantize": True}])
@pytest.mark.parametrize(
    "x",
    [GREY, GREY / np.float32(255), np.asfortranarray(GREY / 255), GREY > 99],
    ids=["bytes", "floats", "columns", "booleans"],
)
def test_a_mapped_array_is_that_in_memory(x, noise, tmp_path):
    if x.dtype == bool and "dequantize" in noise:
        noise = {**noise, "num_levels": 2}
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    assert_same(*(array(str(tmp_path / f"x.{kind}"), **noise) for kind in ("npy", "npz")))


def test_reading_uses_up_none_of_the_noise(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    data = array(str(tmp_path / "x.npy"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(data.batches(torch.arange(len(data.train)).split(7)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_map_with_labels_from_memory(tmp_path):
    y = np.arange(60) % 3
    np.save(tmp_path / "x.npy", GREY)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(from_array(x, y=y), from_array(GREY, y=y))


def test_changes_of_a_copy_on_write_map_stay(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[:] = 51
    data = from_array(x)
    for _ in range(2):
        assert (data.train.in_memory().x == torch.tensor(0.2)).all()


def test_what_is_held_out_is_bounded(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    data = array(str(tmp_path / "x.npy"), max_held_out=2)
    assert data.sizes == {"train": 56, "val": 2, "test": 2}
    with pytest.raises(BadInput, match="max_held_out=0"):
        array(str(tmp_path / "x.npy"), max_held_out=0)


def test_a_file_is_read_in_its_order_where_all_of_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.split.CHUNK_BYTES", 4 * 3 * 10)
    np.save(tmp_path / "x.npy", np.repeat(np.arange(50, dtype=np.float32)[:, None], 3, 1))
    train = array(str(tmp_path / "x.npy")).train
    chunks = list(train.in_order())
    assert [len(chunk) for chunk in chunks] == [10] * 4
    assert torch.equal(torch.cat(chunks)[:, 0], train.index.sort().values.float())
    assert len(train.sample()) == 10


def test_nan_is_found_where_it_is_read(tmp_path):
    x = GREY / np.float32(255)
    np.save(tmp_path / "x.npy", x)
    row = array(str(tmp_path / "x.npy")).train.index[0]
    x[row] = np.nan
    np.save(tmp_path / "x.npy", x)
    data = array(str(tmp_path / "x.npy"))
    with pytest.raises(BadInput, match=r"x.npy \(in \d+ of its rows\) holds 16 values that are NaN or Inf"):
        list(data.train.in_order())


def test_all_of_it_is_not_taken_into_memory_unasked(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    data = array(str(tmp_path / "x.npy"))
    with pytest.raises(BadInput, match=r"48 datapoints are on disk.*num_data=1000"):
        data.split("train")
    with pytest.raises(BadInput, match="num_data=49 must lie between 1 and 48"):
        data.split("train", 49)
    with pytest.raises(BadInput, match=r"binarize=static.*use binarize=dynamic"):
        array(str(tmp_path / "x.npy"), binarize="static")


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_values_that_cannot_be_binarized_are_refused_before_the_work(binarize, tmp_path, command):
    x = GREY / np.float32(255)
    np.save(tmp_path / "x.npy", x)
    row = array(str(tmp_path / "x.npy")).train.index[0]
    x[row] = 2
    np.save(tmp_path / "x.npy", x)
    outcome = command("train", "data=array", "data.path=x.npy", f"data.binarize={binarize}")
    assert outcome.code == 2
    assert f"data.binarize={binarize} needs values in [0, 1], the data span [0, 2]" in outcome.err


class Broken(torch.utils.data.Dataset):
    def __getitems__(self, index):
        return BadInput("row 3 is broken") if 3 in index else torch.zeros(len(index), 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_about_rows_is_the_users(num_workers):
    parts = torch.arange(10).split([8, 1, 1])
    train, _, _ = stored(Broken(), torch.Size([2]), parts, None, num_workers)
    with pytest.raises(BadInput, match="^row 3 is broken$"):
        list(train.batches(torch.arange(8).split(2)))


MEMORY = """
import resource, sys, numpy as np, torch
from pyro_vae.data import array

torch.set_num_threads(1)
peaks = []
for path in sys.argv[1:]:
    data = array(path, binarize="dynamic", max_held_out=100)
    for _ in data.train.in_order():
        pass
    for _ in data.batches(torch.randperm(len(data.train)).split(100)):
        pass
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts otherwise")
def test_memory_does_not_grow_with_the_file(tmp_path):
    paths = [tmp_path / "small.npy", tmp_path / "large.npy"]
    for path, n in zip(paths, (2000, 100_000), strict=True):  # the large one: 78 MB, of holes
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 784)).flush()
    out = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=True).stdout
    small, large = map(float, out.split())
    # the chunk in bytes, as floats and as comparisons; indices
    assert large - small < 60e6


@pytest.fixture
def folder(tmp_path):
    """60 images in 3 folders, 8 pixels high and 12 wide, of one colour each."""
    for i in range(60):
        path = tmp_path / "images" / "abc"[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (i, 2 * i, 255)).save(path)
    return tmp_path / "images"


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_folder_is_its_images(folder, channels, num_workers):
    data = image_folder(str(folder), size=4, channels=channels, num_workers=num_workers)
    assert data.data_shape == (channels, 4, 4)
    assert data.sizes == {"train": 48, "val": 6, "test": 6}
    index = torch.randperm(48)
    x, y = (torch.cat(parts) for parts in zip(*data.batches(index.split(5)), strict=True))
    rows = data.train.index[index]  # abc, in alphabetical order
    i = 3 * (rows % 20) + rows // 20
    assert torch.equal(y, rows // 20)
    if channels == 3:
        colours = torch.stack([i, 2 * i, torch.full_like(i, 255)], 1) / 255
        torch.testing.assert_close(x, colours[:, :, None, None].expand_as(x))
    else:  # ITU-R 601-2, rounded
        luma = (0.299 * i + 0.587 * 2 * i + 0.114 * 255) / 255
        torch.testing.assert_close(x.mean((1, 2, 3)), luma.float(), atol=1 / 255, rtol=0)
    assert torch.equal(data.val.y.bincount(), torch.tensor([2, 2, 2]))


def test_the_middle_of_an_image_is_cut_out(tmp_path):
    path = tmp_path / "images" / "a"
    path.mkdir(parents=True)
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 255
    for i in range(20):
        Image.fromarray(pixels).save(path / f"{i}.png")
    assert (image_folder(str(path.parent), size=4, channels=1).val.x == 1).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_named(folder, num_workers):
    data = image_folder(str(folder), size=4, num_workers=num_workers)
    row = int(data.train.index[0])
    path = folder / "abc"[row // 20] / f"{3 * (row % 20) + row // 20:02}.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadInput, match=rf"{path.name} is not a readable image .*: repair it") as error:
        list(data.batches(torch.arange(48).split(5)))
    assert "\n" not in str(error.value)


def test_an_image_that_would_fill_the_memory_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8 * 12 - 1)
    with pytest.raises(BadInput, match="decompression bomb"):
        image_folder(str(folder), size=4, num_workers=0)


def test_bad_folders_and_options(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "files" / "a").mkdir(parents=True)
    (tmp_path / "files" / "a" / "x.txt").write_text("")
    for root, options, message in [
        (None, {}, "root is missing"),
        (tmp_path / "none", {}, "root=.*none: no such folder"),
        (tmp_path / "empty", {}, "should hold images as CLASS/NAME.png"),
        (tmp_path / "files", {}, "should hold images as CLASS/NAME.png"),
        (folder, {"size": 0}, "size=0"),
        (folder, {"channels": 2}, "channels=2"),
        (folder, {"num_workers": "many"}, "num_workers=many"),
        (folder, {"num_workers": -1}, "num_workers=-1"),
        (folder, {"val_fraction": 0.001}, "60 datapoints"),
    ]:
        with pytest.raises(BadInput, match=message):
            image_folder(root if root is None else str(root), **options)


@pytest.mark.parametrize("kind", ["I;16", "F"])
def test_images_of_more_than_8_bits_are_refused(kind, tmp_path):
    """PIL would cut their values off at 255: white, or black."""
    (tmp_path / "a").mkdir()
    pixels = rng.uniform(0, 1, (10, 20, 20))
    for i, x in enumerate(pixels):
        x = (65535 * x).astype(np.uint16) if kind == "I;16" else x.astype(np.float32)
        Image.fromarray(x).save(tmp_path / "a" / f"{i}.{'png' if kind == 'I;16' else 'tiff'}")
    with pytest.raises(BadInput, match=f"its mode {kind} has more than 8 bits"):
        image_folder(str(tmp_path), size=8, channels=1, num_workers=0)


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    (tmp_path / "a").mkdir()
    x = np.zeros((20, 20), np.uint8)
    x[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for i in range(10):
        Image.fromarray(x).save(tmp_path / "a" / f"{i}.jpg", exif=exif)
    shown = image_folder(str(tmp_path), size=20, channels=1, num_workers=0).test.x
    assert shown[:, :, :9].max() < 0.05
    assert shown[:, :, 11:].min() > 0.95


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_bytes_of_0_and_1_are_noticed_where_those_of_0_come_first(kind, tmp_path):
    x = np.zeros((300, 5), np.uint8)
    x[150:] = 1
    np.save(tmp_path / "x.npy", x) if kind == "npy" else np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(BadInput, match="bytes of 0 and 1"):
        array(str(tmp_path / f"x.{kind}"))
