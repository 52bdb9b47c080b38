"""Folders of images that may be a stranger's: no program is started, nothing is waited for, no image counts twice."""

import os
import socket

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from pyro_vae.data import image_folder, images, vision
from pyro_vae.errors import BadInput


def draw(path, value=0, size=(8, 8), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path, **kwargs)
    return path


@pytest.fixture
def folder(tmp_path):
    """20 images in each of two classes."""
    for i in range(40):
        draw(tmp_path / "images" / "ab"[i // 20] / f"{i:02}.png", 5 * i)
    return tmp_path / "images"


def read(folder, **kwargs):
    return image_folder(str(folder), size=4, channels=1, num_workers=0, **kwargs)


def values(data):
    """The colour of each image, and its class."""
    splits = [data.train.in_memory(), data.val, data.test]
    x, y = torch.cat([split.x for split in splits]), torch.cat([split.y for split in splits])
    return sorted(zip((255 * x[:, 0, 0, 0]).round().int().tolist(), y.tolist(), strict=True))


ALL = [(5 * i, i // 20) for i in range(40)]


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x.jpg"])
def test_eps_by_another_name_starts_no_program(name, folder, monkeypatch):
    def start(*args, **kwargs):
        raise AssertionError("Ghostscript is started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for path in (folder / "a").iterdir():
        path.unlink()
    for i in range(20):
        (folder / "a" / f"{i}{name}").write_bytes(eps)
    with pytest.raises(BadInput, match=rf"{name} is not a readable image \(cannot identify image file"):
        read(folder)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP", "GIF"])
def test_images_are_read_whatever_their_names_say(kind, folder):
    draw(folder / "a" / "00.png", 0, format=kind)
    assert values(read(folder))[0][0] < 3


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "broken link", "circle"])
def test_what_is_not_a_file_is_refused_unopened(kind, folder, monkeypatch):
    path = folder / "a" / "x.png"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(folder / "a")  # names of sockets are short
            with socket.socket(socket.AF_UNIX) as pipe:
                pipe.bind("x.png")
        case "device":
            os.symlink("/dev/zero", path)
        case "broken link":
            os.symlink(folder / "nowhere", path)
        case "circle":
            os.symlink(path, path)
    message = {"broken link": "no such file", "circle": "cannot be read"}.get(kind, "is not a regular file")
    with pytest.raises(BadInput, match=f"x.png.*{message}"):
        read(folder)


@pytest.mark.parametrize("num_links", [1, 2, 8])
def test_circles_of_folders_come_to_an_end(num_links, folder, caplog):
    for i in range(num_links):
        os.symlink(folder / "a", folder / "a" / f"again{i}")
        os.symlink(folder, folder / "b" / f"all{i}")
        os.symlink(folder / "b" / "circle", folder / "b" / "circle", target_is_directory=True) if i == 0 else None
    assert values(read(folder)) == ALL
    assert f"{2 * num_links} links below" in caplog.text


@pytest.mark.parametrize("kind", ["link", "hard link", "relative link", "folder", "class", "outside"])
def test_links_do_not_count_an_image_twice(kind, folder, caplog):
    """Else the model might be tested with what it has been trained on."""
    match kind:
        case "link":  # before the image itself
            os.symlink(folder / "b" / "39.png", folder / "a" / "00-39.png")
        case "relative link":
            os.symlink("../b/39.png", folder / "a" / "00-39.png")
        case "hard link":
            os.link(folder / "a" / "19.png", folder / "b" / "19.png")
        case "folder":
            os.symlink(folder / "b", folder / "a" / "0-of-b")
        case "class":
            os.symlink(folder / "b", folder / "0")
            draw(folder / "0b" / "x.png", 255)
        case "outside":
            outside = draw(folder.parent / "other" / "x.png", 201)
            for name in ("x", "y"):
                os.symlink(outside, folder / "b" / f"{name}.png")
    expected = {"class": [], "outside": [*ALL, (201, 1)]}.get(kind, ALL)
    if kind == "class":
        with pytest.raises(BadInput, match="0 has no files ending in .jpg.*or only links to other classes"):
            read(folder)
    else:
        assert values(read(folder)) == sorted(expected)
        assert "1 links below" in caplog.text
        assert "each image counts once" in caplog.text


def test_links_to_what_is_elsewhere_are_followed(folder, caplog):
    (folder.parent / "elsewhere").mkdir()
    os.rename(folder / "b", folder.parent / "elsewhere" / "b")
    os.symlink(folder.parent / "elsewhere" / "b", folder / "b")
    os.rename(folder / "a" / "03.png", folder.parent / "elsewhere" / "x.png")
    os.symlink(folder.parent / "elsewhere" / "x.png", folder / "a" / "03.png")
    assert values(read(folder)) == ALL
    assert not caplog.text


def test_images_are_in_the_order_of_torchvision(folder):
    """So that runs of before find their splits again."""
    datasets = pytest.importorskip("torchvision.datasets")
    for name in ("a/sub/x.png", "a/sub.d/x.PNG", "a/0/deep/er/y.jpeg", "a/Z.pgm", "B/1.tif", "b/sub/x.webp"):
        draw(folder / name)
    (folder / "a" / "notes.txt").write_text("")
    (folder / "a" / "folder.png").mkdir()
    (folder / "stray.png").write_bytes(b"")
    expected = datasets.ImageFolder(str(folder)).samples
    assert list(zip(*images.in_classes(str(folder))[:2], strict=True)) == expected


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (2, 9000)])
def test_thin_images_are_refused_before_they_are_decoded(size, tmp_path, monkeypatch):
    draw(tmp_path / "thin.png", size=size)
    monkeypatch.setattr(Image.Image, "load", None)
    thin = images.opened(tmp_path / "thin.png", 256)
    with pytest.raises(BadInput, match=r"thin.png is not a readable image \(\d+x\d+ pixels, too thin to scale to 256"):
        thin.__enter__()


def test_a_thin_image_is_named_where_it_is_read(folder):
    for i in range(20):
        draw(folder / "a" / f"{i:02}.png", size=(1, 100_000))
    with pytest.raises(BadInput, match=r"a/\d\d.png is not a readable image \(1x100000 pixels, too thin"):
        image_folder(str(folder), size=64, num_workers=0)


def test_names_that_look_like_numbers(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    os.rename(folder, "5")
    assert values(read(5)) == ALL
    with pytest.raises(BadInput, match="root=6: no such folder"):
        image_folder(6)


def test_names_with_line_breaks_make_one_line(folder):
    os.mkfifo(folder / "a" / "x\n\x1b[2J.png")
    with pytest.raises(BadInput) as error:
        read(folder)
    assert str(error.value).isprintable()


def test_a_folder_that_may_not_be_read_is_not_left_out(folder, monkeypatch):
    scandir = os.scandir

    def forbidden(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(BadInput, match="should hold images as CLASS/NAME.png: .*Permission denied"):
        read(folder)


def test_omniglot_is_read_with_the_same_care(tmp_path, caplog):
    drawn = draw(tmp_path / "Latin" / "character01" / "0709_01.png", 60, size=(105, 105))
    os.link(drawn, drawn.with_name("0709_02.png"))
    os.symlink(drawn, drawn.with_name("0709_00.png"))
    draw(tmp_path / "Greek" / "character01" / "0394_01.png", 20, size=(105, 105))
    split = vision._characters(tmp_path)
    assert (255 * (1 - split.x[:, 0, 5, 5])).round().tolist() == [20, 60]
    assert "2 links below" in caplog.text
    for content, message in ((None, "not a regular file"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a readable image")):
        path = tmp_path / "Greek" / "character01" / "0394_02.png"
        path.unlink(missing_ok=True)
        os.mkfifo(path) if content is None else path.write_bytes(content)
        with pytest.raises(BadInput, match=f"0394_02.png.*{message}"):
            vision._characters(tmp_path)


def test_pixels_are_bounded_in_omniglot_too(tmp_path, monkeypatch):
    draw(tmp_path / "Latin" / "character01" / "0709_01.png", size=(105, 105))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 105 * 105 - 1)
    with pytest.raises(BadInput, match="0709_01.png.*decompression bomb"):
        vision._characters(tmp_path)


def test_values_are_those_of_the_pixels(folder):
    np.testing.assert_array_equal([value for value, _ in values(read(folder))], 5 * np.arange(40))


def test_classes_are_named_by_their_folders(folder):
    assert read(folder).classes == ("a", "b")
