"""The gallery shows every family, and its pictures are small."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "reference" / "figures.md").read_text()
SHOWN = re.findall(r"\(\.\./figures/([\w-]+)\.png\)", PAGE)
UNSEEN = {"none"}  # makes no estimate
ELSEWHERE = {  # on other pages
    "benchmark", "bernoulli_log_px", "bernoulli_samples", "kingma_welling_frey_faces", "kingma_welling_mnist",
}  # fmt: skip


def test_the_gallery_shows_each_picture_once():
    assert sorted(SHOWN) == sorted({path.stem for path in FOLDER.glob("*.png")} - ELSEWHERE)


@pytest.mark.parametrize("group", ["guide", "prior", "estimator"])
def test_each_family_has_its_picture(group):
    options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - UNSEEN
    assert {name.partition("_")[2] for name in SHOWN if name.startswith(f"{group}_")} == options


def test_pictures_are_small():
    sizes = [path.stat().st_size for path in FOLDER.glob("*.png")]
    assert max(sizes) <= 100_000
    assert sum(sizes) <= 1_000_000
