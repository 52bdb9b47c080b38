"""The notebooks run from top to bottom, in their short mode, and hold the outputs of a full one."""

import json
import os
import warnings
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_VAE_SHORT", "1")
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        for i, cell in enumerate(cells(path)):
            exec(compile("".join(cell["source"]), f"{path.name}, code cell {i + 1}", "exec"), names)
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_holds_its_outputs(path):
    code = cells(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert os.path.getsize(path) < 1e6
