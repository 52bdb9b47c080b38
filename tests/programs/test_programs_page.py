"""docs/reference/programs.md: its programs run, and those that it calls rejected are, with the line that it prints."""

import re
from pathlib import Path

import pyro
import pytest
import torch

from pyro_vae.errors import BadInput

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "programs.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_blocks_do_as_the_page_says():
    pyro.set_rng_seed(0)
    names = {}
    for code, line in BLOCKS:
        if line:
            with pytest.raises(BadInput, match=f"^{re.escape(line.strip())}$"):
                exec(code, names)
        else:
            exec(code, names)
    cov = names["W"].T @ names["W"] + 0.25 * torch.eye(3)
    p_x = torch.distributions.MultivariateNormal(torch.zeros(3), cov)
    torch.testing.assert_close(names["log_px"].float(), p_x.log_prob(names["x"]), atol=1e-3, rtol=0)
    for row, found in zip(names["incomplete"], names["log_p_observed"], strict=True):
        kept = ~row.isnan()
        if kept.any():
            part = torch.distributions.MultivariateNormal(torch.zeros(int(kept.sum())), cov[kept][:, kept])
            assert found == pytest.approx(part.log_prob(row[kept]).item(), abs=1e-3)
    assert len([line for _, line in BLOCKS if line]) == PAGE.count("```text")
