"""docs/explanation/log_evidence.md: what it says of a missed mode is so, and it names every stage."""

import math
import re
from pathlib import Path

import pyro
import torch

from pyro_vae.marginal.evidence import STAGES

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "log_evidence.md").read_text()


def test_the_guide_misses_a_mode_without_a_sign_and_auto_does_not():
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    pyro.set_rng_seed(0)
    names = {}
    exec(code, names)
    one, both = names["one"], names["both"]
    assert one.status == ["reliable"] * 3
    assert ((one.se - 0.025).abs() < 0.02).all()
    torch.testing.assert_close(both.log_px - one.log_px, torch.full((3,), math.log(2)).double(), rtol=0, atol=0.1)


def test_every_stage_has_a_row():
    assert set(re.findall(r"^\| `([\w ]+)` \|", PAGE, flags=re.MULTILINE)) >= set(STAGES)
