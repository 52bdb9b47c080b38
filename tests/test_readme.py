"""README.md: what it says of conf/, and every block of code in it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from conftest import every, write_idx
from PIL import Image

import pyro_vae
from pyro_vae.runs.config import CONFIG_DIR

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("group", sorted(d.name for d in CONFIG_DIR.iterdir() if d.is_dir() and d.name != "hydra"))
def test_table_of_options(group):
    (cell,) = re.findall(rf"^\| `\+?{group}` \| (.*?)(?: \(.*)? \|$", README, flags=re.MULTILINE)[:1]
    assert set(re.findall(r"`(\w+)`", cell)) == {f.stem for f in (CONFIG_DIR / group).glob("*.yaml")}


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]*?)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


# Blocks of code: those of `sh` are what .ci/run begins with; those of `text` are commands or what a command prints.

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "text" for line in block.splitlines()]
COMMANDS = [line for line in LINES if re.match(r"python|torchrun|pytest|EAGER_IMPORT", line)]
ELSEWHERE = {
    "torchrun": "test_distributed.py runs these in processes",
    "pytest": "they are tests",
    "python -m pyro_vae.benchmark": "test_benchmark.py runs it on small works",
}
QUICK = [  # last on the line: the last value holds
    "trainer.max_epochs=1",
    "trainer.batch_size=1000",
    "trainer.compile=false",
    "estimator=elbo",
    "estimator.num_samples=2",
]
NETWORK = ["network.hidden=[4]", "network.upper_hidden=[4]"]
DATA = ["data=array", "data.path=tiny.npz", "data.key=x", "data.label_key=y"]
WITHOUT = r"(trainer\.|estimator[=.]|\+launcher=|network\.hidden)\S*"
"""Options that a short run has its own of, and engines that are not installed with the tests."""


def test_every_block_is_of_a_kind_that_is_executed():
    assert {kind for kind, _ in BLOCKS} == {"sh", "text", "python"}
    for kind, block in BLOCKS:
        if kind == "text" and not set(block.splitlines()) <= set(COMMANDS):
            assert block.startswith("test, 500 datapoints, estimator auto")  # what the first command prints


def test_sh_blocks_are_those_that_ci_runs():
    assert [block.split()[0] for kind, block in BLOCKS if kind == "sh"] == ["pip", "pip"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'eval "$(block 1)"' in ci
    assert 'eval "$(block 2)"' in ci


@pytest.fixture
def folder(command, tmp_path, small_run):
    """What the commands name: a run, a sweep and data, in the current folder."""
    rng = np.random.default_rng(0)
    x = rng.random((60, 12)).astype(np.float32)
    np.savez("my.npz", x=x)
    np.savez("tiny.npz", x=rng.random((60, 1, 8, 8)).round().astype(np.float32), y=np.arange(60) % 3)
    np.save("huge.npy", x)
    Path("my.csv").write_text(
        "age,colour\n" + "".join(f"{20 + 31 * i % 50}.5,{['red', 'green'][i % 2]}\n" for i in range(60))
    )
    np.savez("frey_faces.npz", images=rng.integers(0, 256, (60, 28, 20), dtype=np.uint8))
    write_idx(tmp_path / "data" / "MNIST" / "raw")
    for i in range(40):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return small_run


def shortened(line, run):
    """The command and its arguments, for a run of a second on data of next to nothing."""
    line = re.sub(r" +#.*", "", line).replace("outputs/bernoulli/…", str(run)).replace("seed=1,2,3", "seed=1,2")
    _, _, module, *arguments = shlex.split(line)
    name = module.removeprefix("pyro_vae.")
    if name == "evaluate":
        kept = [a for a in arguments if not a.startswith(("num_data", "estimator.num_samples"))]
        few = ["estimator.num_temperatures=3"] if re.search("estimator=(ais|bdmc)", line) else []
        return name, [*kept, *few, "num_data=3"]
    kept = [a for a in arguments if not re.fullmatch(WITHOUT, a)]
    if "resume=" in line:
        return name, [*kept, "trainer.max_epochs=3"]
    if re.search("data=mnist |iwae_table1|kingma_welling/mnist", line):
        data = ["data.root=data", "data.verify=false", f"data.num_val={0 if 'iwae_table1' in line else 5}"]
    else:
        data = [] if re.search(r"\bdata[=.]", line) else DATA
    if "as_coded" in line:
        data.append("data.num_train=20")
    if "semi_supervised" in line:
        data.append("data.num_labels=6")
    network = [] if "network=conv" in line else NETWORK
    return name, [*kept, *data, *network, *QUICK, *(["num_trials=2"] if name == "search" else [])]


SHORTENED = [line for line in COMMANDS if not line.startswith((*ELSEWHERE, "EAGER_IMPORT"))]


@pytest.mark.parametrize("line", every(2, SHORTENED))  # .ci/run has the slow ones, too
def test_commands(line, folder, command):
    name, arguments = shortened(line, folder)
    outcome = command(name, *arguments)
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_pages_of_the_docstrings_build_without_warnings(tmp_path):
    (line,) = [line for line in COMMANDS if line.startswith("EAGER_IMPORT")]
    pytest.importorskip("pdoc")
    line = line.replace(" pdoc ", f" {shlex.quote(sys.executable)} -W error::UserWarning -m pdoc ")
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert 'id="impute"' in (tmp_path / "site" / "pyro_vae" / "analysis.html").read_text()


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python_blocks(code, command, finished_run, tmp_path):
    run = tmp_path / "outputs" / "bernoulli" / "2026-11-21_10-00-00"
    run.parent.mkdir(parents=True)
    run.symlink_to(finished_run)
    vae = pyro_vae.load(run)
    x = torch.bernoulli(torch.full((20, 12), 0.4))
    labels = np.arange(60) % 4
    names = {
        "vae": vae,
        "model": vae.model,
        "guide": vae.guide,
        "x": x,
        "mask": torch.rand(20, 12) < 0.5,
        "z": vae.encode(x),
        "array": np.random.default_rng(0).random((60, 6)).astype(np.float32),
        "labels": labels,
    }
    pyro.clear_param_store()
    exec(code.replace("max_epochs=50", "max_epochs=1"), names)
