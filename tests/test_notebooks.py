"""The notebooks run from top to bottom, in their short mode, and hold the outputs of a full one."""

import io
import json
import os
import re
import warnings
from pathlib import Path

import matplotlib
import pytest
from tqdm import tqdm

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def is_progress(output):
    """Whether an output is that of progress bars: a kernel writes them to stderr."""
    drawn = re.split(r"[\r\n]|\x1b\[A", "".join(output.get("text", "")))
    return output.get("name") == "stderr" and all(re.fullmatch(r"\s*|.*: +\d+%\|.*", line) for line in drawn)


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.slow  # .ci/run has it, too
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
    outputs = [output for cell in code for output in cell["outputs"] if not is_progress(output)]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert os.path.getsize(path) < 1e6


def test_progress_bars_may_stay_in_outputs_and_warnings_may_not():
    drawn = io.StringIO()
    for leave in (True, False):
        with tqdm(total=3, desc="training", unit="step", file=drawn, mininterval=0, leave=leave) as bar:
            bar.update(2)
            bar.set_postfix(epoch=1, elbo="-7.10")
            bar.update()
    assert "training: 100%|" in drawn.getvalue()
    assert is_progress({"output_type": "stream", "name": "stderr", "text": drawn.getvalue().splitlines(keepends=True)})
    warning = {"output_type": "stream", "name": "stderr", "text": [drawn.getvalue(), "warning: 5 % are unreliable\n"]}
    assert not is_progress(warning)
    assert not is_progress({"output_type": "stream", "name": "stdout", "text": ["training: 100%|#|\n"]})
