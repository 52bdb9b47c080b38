"""The notebooks run from top to bottom, in their short mode, and hold the outputs of a full one."""

import io
import json
import os
import re
import runpy
import shutil
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest
from tqdm import tqdm

from pyro_vae.runs import metrics

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


def test_results_are_copied_from_the_files_of_a_run(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "evaluations").mkdir()
    (run / ".hydra" / "overrides.yaml").write_text("[+experiment=iwae_table1/iwae_k5, data.root=/there, seed=3]")
    (run / "metrics.csv").write_text(",".join(metrics.COLUMNS) + "\n1,3000,-9,2,-7,nan,10\n2,6000,-8,2,-6,nan,1234.5\n")
    written = {
        "importance-5000": {
            "elbo": -91.234,
            "log_px": -87.119,
            "log_px_se": 0.24,
            "num_data": 10_000,
            "unreliable": 0.907,
        },
        "refined-500": {"elbo": -91.2, "log_px": -86.5, "log_px_se": 0.75, "num_data": 1000},
        "refined-2000": {
            "elbo": -91.2,
            "log_px": -86.4,
            "log_px_se": 0.75,
            "num_data": 1000,
            "num_samples": 2000,
            "unreliable": 0.034,
        },
        "gaps": {"test": {"approximation_gap": 1.257, "amortization_gap": 3.5}},
        "surgery": {"test": {"active_units": 21}},
    }
    for name, content in written.items():
        (run / "evaluations" / f"{name}.json").write_text(json.dumps(content))
    for name in ("results.py", "results.md"):
        shutil.copy(FOLDER / name, tmp_path)
    before = (FOLDER / "results.md").read_text().splitlines()
    monkeypatch.setattr(sys, "argv", ["results.py", str(run)])
    importance = run / "evaluations" / "importance-5000.json"
    of_training = {**written["importance-5000"], "estimator": "importance", "num_samples": 100, "log_px": -99.0}
    (run / "results.json").write_text(json.dumps({"test": of_training}))
    for K in (100, 5000):  # a row of the same command is replaced, others stay
        if K == 5000:  # training has ended with it
            importance.unlink()
            (run / "results.json").write_text(
                json.dumps({"test": {**of_training, "num_samples": K, "log_px": -87.119}})
            )
        runpy.run_path(str(tmp_path / "results.py"), run_name="__main__")
        after = (tmp_path / "results.md").read_text().splitlines()
        (line,) = set(after) - set(before)
        assert line == (
            "| `train +experiment=iwae_table1/iwae_k5 seed=3` | 2 of 3,280 | 1,234 | 10,000 | -91.23 | "
            "-87.12 ± 0.24, 90.7 % unreliable | (-85.54) | "
            "-86.40 ± 0.75 (N = 1,000, their ELBO -91.20), K = 2,000, 3.4 % unreliable | 1.26 | 3.50 | 21 / 22 |"
        )
        assert [other for other in after if other != line] == before
    (run / "results.json").write_text(json.dumps({"test": of_training}))
    with pytest.raises(SystemExit, match=r"pyro_vae.evaluate run=.* estimator.num_samples=5000"):
        runpy.run_path(str(tmp_path / "results.py"), run_name="__main__")
    assert (tmp_path / "results.md").read_text().splitlines() == after
