"""README.md says what conf/ offers."""

import re
from pathlib import Path

import pytest

from pyro_vae.config import CONFIG_DIR

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("group", sorted(d.name for d in CONFIG_DIR.iterdir() if d.is_dir() and d.name != "hydra"))
def test_table_of_options(group):
    (cell,) = re.findall(rf"^\| `\+?{group}` \| (.*?)(?: \(.*)? \|$", README, flags=re.MULTILINE)[:1]
    assert set(re.findall(r"`(\w+)`", cell)) == {f.stem for f in (CONFIG_DIR / group).glob("*.yaml")}


def test_pictures_exist():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[1] / picture).is_file()
